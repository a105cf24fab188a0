"""The s2v engine on two ranks, through the app: real processes, torch.distributed, the tiny checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from liveavatar.config import AppConfig
from liveavatar.core.job import Job, JobState
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import AUTO, GenerationRequest, ValidatedRequest
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.planning import choice
from liveavatar.planning.planner import plan_request
from liveavatar.service.facade import Studio
from tests.conftest import wait_for_end, wait_until
from tests.fakes.limited_s2v_worker import AREAS, MIB
from tests.integration.test_s2v_memory import check_file
from tests.tiny_checkpoint import write_tiny_checkpoint

SECONDS = 1.1  # two blocks and a bit: the last one is cut to the voice
# Of the first rank, and of the second, which decodes: measured with AllocationLimit, 7.1 and 18.6 MB at 128x64, 5.5 and
# 10.5 MB at 64x64.
FITS_SMALL = 6.3e6, 14e6
TWO_STAGES = ParallelPlan(step_split=(2, 2))


class StudioOfRanks(Studio):
    """Plans a layout that the machine, without graphics cards, would not choose."""

    def __init__(self, config: AppConfig, parallel: ParallelPlan, width: int = 64) -> None:
        self._parallel, self._width = parallel, width
        super().__init__(config)

    def _plan_for(self, engine: str, size: str, request: ValidatedRequest) -> ExecutionPlan:
        return self._warm_plan()

    def _warm_plan(self) -> ExecutionPlan:
        plan = plan_request(
            engine="s2v", size=AUTO, picture_width=64, picture_height=64, s2v=self._find_s2v()
        )
        return dataclasses.replace(plan, parallel=self._parallel, width=self._width)


@pytest.fixture(scope="module")
def request_for_video(
    tmp_path_factory: pytest.TempPathFactory, make_voice: Callable[[float], Path]
) -> GenerationRequest:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    Image.fromarray(np.stack([np.broadcast_to(ramp[:, None], (64, 64))] * 3, axis=-1)).save(path)
    return GenerationRequest(
        image_path=str(path),
        audio_path=str(make_voice(SECONDS)),
        prompt="she smiles",  # the tiny checkpoint takes 24 letters
        engine="s2v",
        whole_picture=True,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def make_video(studio: Studio, request: GenerationRequest) -> Job:
    return wait_for_end(studio, studio.submit(request).id, timeout_s=120)


def pictures_digest(studio: Studio, job: Job) -> tuple[int, str]:
    """Return how many pictures the video has and a hash of all of them."""
    path = studio.video_path(job.id)
    assert path is not None
    digest, num_pictures = hashlib.sha256(), 0
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            digest.update(frame.to_ndarray().tobytes())
            num_pictures += 1
    return num_pictures, digest.hexdigest()


@pytest.fixture
def open_studio(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[ParallelPlan], Studio]]:
    """Start studios, one at a time, each with its layout."""
    monkeypatch.setenv(
        "OMP_NUM_THREADS", "1"
    )  # tiny convolutions on several threads mostly wait for each other
    running: list[Studio] = []

    def open_one(parallel: ParallelPlan) -> Studio:
        while running:
            running.pop().close()
        folder = tmp_path / parallel.describe()
        studio = StudioOfRanks(AppConfig(data_dir=folder, ckpt_dir=checkpoint), parallel)
        studio.start()
        running.append(studio)
        return studio

    yield open_one
    for studio in running:
        studio.close()


def test_two_stages_stop_between_blocks_and_make_the_video_of_one(
    open_studio: Callable[[ParallelPlan], Studio],
    request_for_video: GenerationRequest,
    make_voice: Callable[[float], Path],
) -> None:
    one = open_studio(ParallelPlan(step_split=(4,)))
    job = make_video(one, request_for_video)
    assert job.state is JobState.FINISHED, job.diagnosis
    expected = pictures_digest(one, job)
    assert expected[0] == 28

    two = open_studio(TWO_STAGES)
    endless = two.submit(dataclasses.replace(request_for_video, audio_path=str(make_voice(60.0))))
    wait_until(lambda: two.job(endless.id).frames_done >= 12, timeout_s=120)
    # Every rank tells of its blocks, not only the one that decodes.
    wait_until(lambda: [report.rank for report in two.telemetry() if report.block_s] == [0, 1])
    assert two.job(endless.id).state is JobState.RUNNING
    two.stop(endless.id)
    assert wait_for_end(two, endless.id).state is JobState.CANCELLED
    job = make_video(two, request_for_video)
    assert job.state is JobState.FINISHED, job.diagnosis
    assert pictures_digest(two, job) == expected


class LimitedRanks:
    """Two ranks that make a 128x64 video; the memory of one can be limited."""

    def __init__(self, checkpoint: Path, voice: Path, folder: Path) -> None:
        self.folder = folder
        self.set_memory()
        picture = folder / "wide.png"
        ramp = np.linspace(0, 255, 128, dtype=np.uint8)
        Image.fromarray(np.tile(ramp[None, :, None], (64, 1, 3))).save(picture)
        self.request = GenerationRequest(
            image_path=str(picture), audio_path=str(voice), prompt="she smiles", engine="s2v"
        )
        config = AppConfig(
            data_dir=folder / "data", ckpt_dir=checkpoint, worker_module="tests.fakes.limited_s2v_worker"
        )
        self.studio = StudioOfRanks(config, TWO_STAGES, width=128)
        self.studio.start()

    @property
    def memory(self) -> Path:
        """Return the file that says how much there is."""
        return self.folder / "memory.json"

    def set_memory(self, **changes: float) -> None:
        """Set limits from now on, or hold videos; what is not named is as at the beginning."""
        content = {"available_bytes": 1000 * MIB, "limit_bytes": math.inf} | changes
        self.memory.with_suffix(".new").write_text(json.dumps(content))
        self.memory.with_suffix(".new").rename(self.memory)

    def begin(self, **fields: object) -> str:
        """Submit a video; return its id when three blocks of it are made, and it waits.

        The encoder holds back some of the last one: two are in the file.
        """
        self.set_memory(hold_before_block=4)
        job = self.studio.submit(dataclasses.replace(self.request, **fields))  # type: ignore[arg-type]
        wait_until(lambda: self.studio.job(job.id).frames_done >= 3 * PICTURES_PER_BLOCK, timeout_s=120)
        return job.id

    def go_on(self, limited_rank: int) -> None:
        """Let the video go on, with little memory for one rank."""
        self.set_memory(limited_rank=limited_rank, limit_bytes=FITS_SMALL[limited_rank])


@pytest.fixture(scope="module")
def ranks(
    checkpoint: Path, make_voice: Callable[[float], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LimitedRanks]:
    """Ranks for test after test: starting them takes most of the time."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "AUTO_AREAS", AREAS)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("FAKE_MEMORY", str(folder / "memory.json"))
        ranks = LimitedRanks(checkpoint, make_voice(4.0), folder)
        yield ranks
        ranks.studio.close()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_out_of_memory_costs_size_and_not_the_video(
    ranks: LimitedRanks, tmp_path: Path, rank: int
) -> None:
    """The ranks start anew and go on in the same file, in the steps that were wished meanwhile."""
    studio, job_id = ranks.studio, ranks.begin()
    live = studio.read_media(job_id, 0)
    studio.adjust(job_id, num_steps=3)
    ranks.go_on(limited_rank=rank)
    whole = wait_for_end(studio, job_id, timeout_s=120)
    assert whole.state is JobState.FINISHED, whole.diagnosis
    assert (whole.frames_done, whole.size_made) == (100, "128*64")
    (smaller,) = [change for change in whole.changes if change.cause == "memory_full"]
    assert smaller.first_frame >= 2 * PICTURES_PER_BLOCK
    assert smaller.after.startswith("64x64")
    assert f"engine process {rank + 1} of 2" in smaller.reason
    assert smaller.note() in whole.notes
    assert whole.changes[-1].after.startswith("64x64, 3 steps")
    assert studio.read_media(job_id, 0).data.startswith(live.data), "a page that plays it reads on"
    video = studio.video_path(job_id)
    assert video is not None
    check_file(video, tmp_path / "unused", size=(128, 64), num_frames=100)


def test_a_rank_out_of_memory_ends_a_video_of_pinned_size(ranks: LimitedRanks) -> None:
    job_id = ranks.begin(pin_size=True)
    ranks.go_on(limited_rank=0)
    broken = wait_for_end(ranks.studio, job_id, timeout_s=120)
    assert broken.state is JobState.FAILED
    assert broken.diagnosis is not None
    assert broken.diagnosis.code == "graphics_memory_full"
    assert not broken.changes
    assert pictures_digest(ranks.studio, broken)[0] >= 2 * PICTURES_PER_BLOCK, "what was made is kept"

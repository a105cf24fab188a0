"""The s2v engine on two ranks, through the app: real processes, torch.distributed, the tiny checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
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
from liveavatar.planning.planner import plan_request
from liveavatar.service.facade import Studio
from tests.conftest import wait_for_end, wait_until
from tests.tiny_checkpoint import write_tiny_checkpoint

SECONDS = 1.1  # two blocks and a bit: the last one is cut to the voice
TWO_STAGES = ParallelPlan(step_split=(2, 2))


class StudioOfRanks(Studio):
    """Plans a layout that the machine, without graphics cards, would not choose."""

    def __init__(self, config: AppConfig, parallel: ParallelPlan) -> None:
        self._parallel = parallel
        super().__init__(config)

    def _plan_for(self, engine: str, size: str, request: ValidatedRequest) -> ExecutionPlan:
        return self._warm_plan()

    def _warm_plan(self) -> ExecutionPlan:
        plan = plan_request(
            engine="s2v", size=AUTO, picture_width=64, picture_height=64, s2v=self._find_s2v()
        )
        return dataclasses.replace(plan, parallel=self._parallel)


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
    two.stop(endless.id)
    assert wait_for_end(two, endless.id).state is JobState.CANCELLED
    job = make_video(two, request_for_video)
    assert job.state is JobState.FINISHED, job.diagnosis
    assert pictures_digest(two, job) == expected

"""The s2v engine with a tiny random checkpoint in a real worker process: from files to a video that plays."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from liveavatar.config import AppConfig
from liveavatar.core.errors import EngineFailed, InputRejected
from liveavatar.core.events import Cancelled, EngineEvent, Progress
from liveavatar.core.job import Job, JobState
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import GenerationRequest
from liveavatar.engines.s2v.engine import S2vEngine
from liveavatar.intake.validate import validate
from liveavatar.monitoring.hardware import HardwareMonitor
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.planning.planner import plan_request
from liveavatar.service.facade import Studio
from liveavatar.service.s2v_setup import find_s2v
from tests.conftest import wait_for_end, wait_until
from tests.tiny_checkpoint import write_tiny_checkpoint

_PROMPT = "she smiles"  # the tiny checkpoint takes 24 letters
_MB = 2**20

Voice = Callable[[float], Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def small_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture as small as the engine makes them."""
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    Image.fromarray(
        np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], 128), axis=-1).astype(np.uint8)
    ).save(path)
    return path


@pytest.fixture(scope="module")
def config(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> AppConfig:
    return AppConfig(data_dir=tmp_path_factory.mktemp("studio"), ckpt_dir=checkpoint)


@pytest.fixture(scope="module")
def studio(config: AppConfig) -> Iterator[Studio]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "OMP_NUM_THREADS", "1"
        )  # tiny convolutions on several threads mostly wait for each other
        studio = Studio(config)
        studio.start()
        yield studio
        studio.close()


@pytest.fixture
def submit(studio: Studio, small_picture: Path, make_voice: Voice) -> Callable[..., Job]:
    def run(engine: str = "s2v", *, seconds: float = 1.1, seed: int = 0) -> Job:
        return studio.submit(
            GenerationRequest(
                image_path=str(small_picture),
                audio_path=str(make_voice(seconds)),
                prompt=_PROMPT,
                engine=engine,
                seed=seed,
                whole_picture=True,
            )
        )

    return run


@pytest.fixture(scope="module")
def plan(config: AppConfig) -> ExecutionPlan:
    setup = find_s2v(config, HardwareMonitor().snapshot())
    return plan_request(engine="s2v", size="auto", picture_width=64, picture_height=64, s2v=setup)


def check_video(path: Path, *, seconds: float) -> None:
    """Every picture is there, and picture and sound are as long as the voice."""
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.duration is not None
        assert audio.duration is not None
        video_s, audio_s = float(video.duration * video.time_base), float(audio.duration * audio.time_base)  # type: ignore[operator]
        assert (video.width, video.height) == (64, 64)
        num_frames = sum(1 for _ in container.decode(video=0))
    assert num_frames == np.ceil(round(seconds * 25, 3))
    assert abs(video_s - audio_s) <= 0.04
    assert abs(video_s - seconds) <= 0.04


def digest(studio: Studio, job: Job) -> str:
    video = studio.video_path(job.id)
    assert video is not None
    return hashlib.sha256(video.read_bytes()).hexdigest()


def test_from_files_to_a_video(studio: Studio, submit: Callable[..., Job]) -> None:
    """Two and a bit blocks: the last one is cut to the voice."""
    job = wait_for_end(studio, submit().id, timeout_s=120)
    assert job.state is JobState.FINISHED, job.diagnosis
    assert (job.engine, job.size_made) == ("s2v", "64*64")
    assert job.frames_done == job.num_frames == 28
    assert any("64x64" in note.text for note in job.notes), job.notes
    assert len(set(job.notes)) == len(job.notes)
    video = studio.video_path(job.id)
    assert video is not None
    check_video(video, seconds=1.1)
    (report,) = studio.telemetry()
    assert report.reserved_bytes == 0, "nothing lies on a graphics card"


def test_the_seed_decides(studio: Studio, submit: Callable[..., Job]) -> None:
    jobs = [wait_for_end(studio, submit(seconds=0.6, seed=seed).id, timeout_s=120) for seed in (5, 5, 6)]
    first, second, other = [digest(studio, job) for job in jobs]
    assert first == second != other


def test_stop_keeps_what_was_made_and_the_next_job_runs(studio: Studio, submit: Callable[..., Job]) -> None:
    job = submit(seconds=60.0)
    wait_until(lambda: studio.job(job.id).frames_done >= PICTURES_PER_BLOCK, timeout_s=120)
    engine = studio.engine_status()
    following = submit(seconds=0.5)
    studio.stop(job.id)
    stopped = wait_for_end(studio, job.id)
    assert stopped.state is JobState.CANCELLED
    video = studio.video_path(job.id)
    assert video is not None
    with av.open(str(video)) as container:
        num_frames = sum(1 for _ in container.decode(video=0))
    assert PICTURES_PER_BLOCK <= num_frames < stopped.num_frames
    assert num_frames % PICTURES_PER_BLOCK == 0, "an engine stops between blocks"
    assert wait_for_end(studio, following.id).state is JobState.FINISHED
    assert studio.engine_status().engine == engine.engine == "s2v"


def test_engines_take_turns_and_lose_nothing(studio: Studio, submit: Callable[..., Job]) -> None:
    """All are queued at once; the engine used last stays loaded."""
    engines = ["s2v", "portrait", "s2v"]
    jobs = [submit(engine, seconds=0.6) for engine in engines]
    ends = [wait_for_end(studio, job.id, timeout_s=120) for job in jobs]
    assert [job.state for job in ends] == [JobState.FINISHED] * 3, [job.diagnosis for job in ends]
    assert [job.engine for job in ends] == engines
    assert all(studio.video_path(job.id) for job in jobs)
    assert digest(studio, jobs[0]) == digest(studio, jobs[2])
    wait_until(lambda: studio.engine_status().state == "ready")
    assert studio.engine_status().engine == "s2v"


def test_a_missing_file_is_named_before_anything_starts(
    tmp_path: Path, small_picture: Path, make_voice: Voice
) -> None:
    broken = write_tiny_checkpoint(tmp_path)
    (broken / "Wan2.1_VAE.pth").unlink()
    studio = Studio(AppConfig(data_dir=tmp_path / "data", ckpt_dir=broken))
    request = GenerationRequest(
        image_path=str(small_picture), audio_path=str(make_voice(0.5)), prompt=_PROMPT, engine="s2v"
    )
    try:
        with pytest.raises(
            InputRejected, match=r"“Wan2\.1_VAE\.pth” is missing\. Fetch it with: hf download"
        ):
            studio.submit(request)
    finally:
        studio.close()


def test_a_file_that_vanishes_later_is_named_by_the_engine(plan: ExecutionPlan, tmp_path: Path) -> None:
    broken = write_tiny_checkpoint(tmp_path)
    (broken / "models_t5_umt5-xxl-enc-bf16.pth").unlink()
    assert plan.model is not None
    files = dataclasses.replace(plan.model, checkpoint=str(broken))
    with pytest.raises(EngineFailed, match=r"“models_t5_umt5-xxl-enc-bf16\.pth” is missing"):
        S2vEngine().load(dataclasses.replace(plan, model=files))


class _Run:
    """One video, made in this process."""

    def __init__(self, plan: ExecutionPlan, picture: Path, voice: Path, folder: Path) -> None:
        request = GenerationRequest(image_path=str(picture), audio_path=str(voice), prompt=_PROMPT)
        self._request = validate(request, job_id="a", job_dir=folder, max_audio_s=600).request
        self._plan = plan
        self.num_blocks = 0
        self.last: EngineEvent | None = None

    def go(self, engine: S2vEngine, *, num_blocks: int, on_block: Callable[[int], None]) -> None:
        """Make so many blocks, then stop."""
        for event in engine.generate(
            self._request, self._plan, should_stop=lambda: self.num_blocks >= num_blocks
        ):
            self.last = event
            if isinstance(event, Progress) and event.stage == "generating":
                self.num_blocks += 1
                on_block(self.num_blocks)


def test_memory_does_not_grow_with_the_video(
    plan: ExecutionPlan, small_picture: Path, make_voice: Voice, tmp_path: Path
) -> None:
    """Ten minutes of voice are given; what is kept at blocks 20 and 40 differs by less than the pictures between."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tiny convolutions are slower on several
    engine = S2vEngine()
    engine.load(plan)
    run = _Run(plan, small_picture, make_voice(600.0), tmp_path)
    kept_bytes: dict[int, int] = {}

    def measure(block: int) -> None:
        if block == 10:
            tracemalloc.start()  # from here on, what lasts is allocated anew at least once before block 20
        if block in (20, 40):
            gc.collect()
            kept_bytes[block] = tracemalloc.get_traced_memory()[0] + _tensor_bytes()

    run.go(engine, num_blocks=40, on_block=measure)
    tracemalloc.stop()
    assert isinstance(run.last, Cancelled)
    pictures = 20 * PICTURES_PER_BLOCK * plan.width * plan.height * 3
    growth = kept_bytes[40] - kept_bytes[20]
    assert growth < pictures / 5, f"{growth / _MB:.1f} MB in 20 blocks"
    engine.close()
    torch.set_num_threads(num_threads)


def _tensor_bytes() -> int:
    """Return the memory of all tensors, which Python's own count leaves out."""
    tensors = (each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter))
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())

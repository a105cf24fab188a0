"""The s2v engine over several graphics cards, through the app, with the tiny checkpoint and NCCL where a plan needs it.

Where tests/golden is missing, LIVEAVATAR_TINY_CHECKPOINT names the folder that `python tests/tiny_checkpoint.py` wrote.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from liveavatar.config import AppConfig
from liveavatar.core.job import Job, JobState
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import AUTO, GenerationRequest, ValidatedRequest
from liveavatar.planning.planner import plan_request
from liveavatar.service.facade import Studio
from tests.conftest import wait_for_end, wait_until
from tests.gpu.inputs import request_of, tiny_checkpoint

SECONDS, NUM_PICTURES = 2.2, 55  # five blocks: the cache rolls, the sink is refreshed
SIDE = 64
LOADED_S, MADE_S = 200.0, 60.0
AT_A_TIME = 3  # apps that start side by side
IDLE_S = 1.5

ONE = ParallelPlan(step_split=(4,))
TENSOR = ParallelPlan(step_split=(4,), tensor=2)
LAYOUTS = [
    ParallelPlan(step_split=(2, 2)),
    TENSOR,
    ParallelPlan(step_split=(4,), layer_parts=2),
    ParallelPlan(step_split=(2, 2), weights_sharded=True),
    ParallelPlan(step_split=(1, 1, 1, 1)),
    ParallelPlan(step_split=(2, 2), tensor=2),
    ParallelPlan(step_split=(4,), tensor=2, layer_parts=2),
    ParallelPlan(step_split=(1, 1, 1, 1), weights_sharded=True),
]
# Mean difference in levels of 0..255. Sums in another order round otherwise in 16 bits, and every block follows from
# the one before: 5 levels on a processor, where 16 bits themselves cost 9 against float32. The video varies by 50.
ROUNDING = 9.0

NUM_CARDS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(NUM_CARDS < 2, reason="needs two graphics cards"),
]


class StudioOfCards(Studio):
    """Plans the layout that it is given for every video."""

    def __init__(self, config: AppConfig, parallel: ParallelPlan) -> None:
        self._parallel = parallel
        super().__init__(config)

    def _plan_for(self, engine: str, size: str, request: ValidatedRequest) -> ExecutionPlan:
        return self._warm_plan()

    def _warm_plan(self) -> ExecutionPlan:
        plan = plan_request(
            engine="s2v", size=AUTO, picture_width=SIDE, picture_height=SIDE, s2v=self._find_s2v()
        )
        return dataclasses.replace(plan, parallel=self._parallel, width=SIDE, height=SIDE)


@pytest.fixture(scope="module", autouse=True)
def uncompiled() -> Iterator[None]:
    """Generated code rounds otherwise, and some layouts are not compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several_cards")


def pictures_of(studio: Studio, job: Job) -> np.ndarray:
    """Return the finished video, [pictures, rows, columns, 3]."""
    log = studio.config.data_dir / "engine.log"
    assert job.state is JobState.FINISHED, f"{job.diagnosis}\n{log.read_text()[-6000:]}"
    path = studio.video_path(job.id)
    assert path is not None
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def make_video(
    parallel: ParallelPlan, checkpoint: Path, folder: Path, request: GenerationRequest
) -> np.ndarray:
    """Start an app for the layout, make the video, end the app."""
    config = AppConfig(data_dir=folder / parallel.describe(), ckpt_dir=checkpoint)
    studio = StudioOfCards(config, parallel)
    studio.start()
    try:
        return pictures_of(studio, wait_for_end(studio, studio.submit(request).id, timeout_s=LOADED_S))
    finally:
        studio.close()


@pytest.fixture(scope="module")
def made(checkpoint: Path, folder: Path) -> Iterator[dict[ParallelPlan, Future[np.ndarray]]]:
    """The video of every layout that there are cards for. Apps start side by side: that takes most of the time."""
    request = request_of(SECONDS, folder, SIDE, SIDE, AUTO)
    with ThreadPoolExecutor(AT_A_TIME) as threads:
        yield {
            layout: threads.submit(make_video, layout, checkpoint, folder, request)
            for layout in [ONE, *LAYOUTS]
            if layout.world_size <= NUM_CARDS
        }


@pytest.mark.parametrize("layout", LAYOUTS, ids=ParallelPlan.describe)
def test_cards_make_the_video_of_one(
    made: dict[ParallelPlan, Future[np.ndarray]], layout: ParallelPlan
) -> None:
    if layout not in made:
        pytest.skip(f"needs {layout.world_size} graphics cards")
    alone, together = made[ONE].result().astype(int), made[layout].result().astype(int)
    assert len(together) == len(alone) == NUM_PICTURES
    assert alone.std() > 10, "a video of one colour would hide every difference"
    difference = abs(together - alone).mean()
    assert difference <= (ROUNDING if layout.tensor > 1 else 0.0), f"{difference:.3f} levels"


@pytest.fixture(scope="module")
def studio(
    made: dict[ParallelPlan, Future[np.ndarray]], checkpoint: Path, folder: Path
) -> Iterator[StudioOfCards]:
    """A running app whose two cards share every layer, alone on the machine."""
    for future in made.values():
        future.exception()
    studio = StudioOfCards(AppConfig(data_dir=folder / "kept", ckpt_dir=checkpoint), TENSOR)
    studio.start()
    yield studio
    studio.close()


def test_a_killed_rank_is_named_and_the_next_video_is_made(
    studio: StudioOfCards, made: dict[ParallelPlan, Future[np.ndarray]], folder: Path
) -> None:
    """The other card waits in a collective for the one that is gone."""
    endless = studio.submit(request_of(120.0, folder, SIDE, SIDE, AUTO))
    wait_until(lambda: studio.job(endless.id).frames_done >= 12, timeout_s=LOADED_S)
    killed_at = time.monotonic()
    os.kill(studio._supervisor.pids[1], signal.SIGKILL)
    broken = wait_for_end(studio, endless.id, timeout_s=MADE_S)
    assert broken.state is JobState.FAILED
    assert broken.diagnosis is not None
    assert broken.diagnosis.code == "engine_killed"
    assert "2 of 2" in broken.diagnosis.cause
    assert time.monotonic() - killed_at < 10
    job = wait_for_end(
        studio, studio.submit(request_of(SECONDS, folder, SIDE, SIDE, AUTO)).id, timeout_s=LOADED_S
    )
    assert np.array_equal(pictures_of(studio, job), made[TENSOR].result())


def test_idle_cards_do_nothing(studio: StudioOfCards) -> None:
    """A collective that waits keeps a card at 100 %."""
    wait_until(lambda: studio.engine_status().state == "ready", timeout_s=LOADED_S)

    def load() -> list[int]:
        loads = [gpu.utilisation for gpu in studio.hardware().gpus]
        if not loads or None in loads:
            pytest.skip("the driver does not say how busy the cards are")
        return [each for each in loads if each is not None]

    wait_until(lambda: max(load()) == 0, timeout_s=10)
    until = time.monotonic() + IDLE_S
    while time.monotonic() < until:
        assert max(load()) == 0
        time.sleep(0.1)

"""The s2v engine over several graphics cards, through the app, with the tiny checkpoint and NCCL where a plan needs it.

Where tests/golden is missing, LIVEAVATAR_TINY_CHECKPOINT names the folder that `python tests/tiny_checkpoint.py` wrote.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from liveavatar.config import AppConfig, Deadlines
from liveavatar.core.job import Job, JobState
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import AUTO, ValidatedRequest
from liveavatar.planning.planner import plan_request
from liveavatar.service.facade import Studio
from tests.conftest import wait_for_end, wait_until
from tests.gpu.inputs import request_of, tiny_checkpoint

SECONDS, NUM_PICTURES = 2.2, 55  # five blocks: the cache rolls, the sink is refreshed
SIDE = 64
LOADED_S, MADE_S = 200.0, 60.0
# The app notices a hang before the test gives up, and has every rank write down where it is.
DEADLINES = Deadlines(load_model_s=90, first_chunk_model_s=40, next_rank_s=5, chunk_s=20, heartbeat_s=20)
IDLE_S = 1.5

ONE = ParallelPlan(step_split=(4,))
TENSOR = ParallelPlan(step_split=(4,), tensor=2)
LAYOUTS = [
    ParallelPlan(step_split=(2, 2)),
    TENSOR,
    ParallelPlan(step_split=(4,), layer_parts=2),
    ParallelPlan(step_split=(2, 2), weights_sharded=True),
    ParallelPlan(step_split=(1, 1, 1, 1)),
    ParallelPlan(step_split=(4,), layer_parts=3, decoder_has_own_rank=True),  # planned for four cards
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


@contextlib.contextmanager
def running(parallel: ParallelPlan, checkpoint: Path, data_dir: Path) -> Iterator[StudioOfCards]:
    """Run an app for the layout."""
    config = AppConfig(data_dir=data_dir, ckpt_dir=checkpoint, deadlines=DEADLINES)
    studio = StudioOfCards(config, parallel)
    studio.start()
    try:
        with explained(data_dir):
            yield studio
    finally:
        studio.close()


@contextlib.contextmanager
def explained(data_dir: Path) -> Iterator[None]:
    """Add to an assertion that fails the end of the engine's log and, where it hung, where each rank stood."""
    try:
        yield
    except AssertionError as error:
        texts = [str(error), (data_dir / "engine.log").read_text()[-2500:]]
        for path in sorted(data_dir.glob("failures/*/*.stacks.txt")):
            stacks = path.read_text()
            main_thread = stacks[
                max(0, stacks.rfind("hread 0x")) :
            ]  # the last one; its innermost call comes first
            texts.append(f"--- {path.relative_to(data_dir)}\n{main_thread[:2000]}")
        raise AssertionError("\n".join(texts)) from error


def pictures_of(studio: Studio, job: Job) -> np.ndarray:
    """Return the finished video, [pictures, rows, columns, 3]."""
    assert job.state is JobState.FINISHED, str(job.diagnosis)
    path = studio.video_path(job.id)
    assert path is not None
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


class Videos:
    """The video of each layout, made once, when it is asked for: one app at a time, so that a hang is its own."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self._checkpoint, self._folder = checkpoint, folder
        self._made: dict[ParallelPlan, np.ndarray | AssertionError] = {}

    def of(self, parallel: ParallelPlan) -> np.ndarray:
        if parallel not in self._made:
            try:
                self._made[parallel] = self._make(parallel)
            except AssertionError as error:
                self._made[parallel] = error
        made = self._made[parallel]
        if isinstance(made, AssertionError):
            raise made
        return made

    def _make(self, parallel: ParallelPlan) -> np.ndarray:
        with running(parallel, self._checkpoint, self._folder / parallel.describe()) as studio:
            request = request_of(SECONDS, self._folder, SIDE, SIDE, AUTO)
            return pictures_of(studio, wait_for_end(studio, studio.submit(request).id, timeout_s=LOADED_S))


@pytest.fixture(scope="module")
def videos(checkpoint: Path, folder: Path) -> Videos:
    return Videos(checkpoint, folder)


@pytest.mark.parametrize("layout", LAYOUTS, ids=ParallelPlan.describe)
def test_cards_make_the_video_of_one(videos: Videos, layout: ParallelPlan) -> None:
    if layout.world_size > NUM_CARDS:
        pytest.skip(f"needs {layout.world_size} graphics cards")
    alone, together = videos.of(ONE).astype(int), videos.of(layout).astype(int)
    assert len(together) == len(alone) == NUM_PICTURES
    assert alone.std() > 10, "a video of one colour would hide every difference"
    difference = abs(together - alone).mean()
    assert difference <= (ROUNDING if layout.tensor > 1 else 0.0), f"{difference:.3f} levels"


def test_a_frozen_rank_leaves_what_the_others_asked_of_their_cards(checkpoint: Path, folder: Path) -> None:
    """With two tensor groups, ranks 0 and 2 are both the first of their group, by which torch names its records."""
    layout = ParallelPlan(step_split=(2, 2), tensor=2) if NUM_CARDS >= 4 else TENSOR
    with running(layout, checkpoint, folder / "frozen") as studio:
        endless = studio.submit(request_of(120.0, folder, SIDE, SIDE, AUTO))
        wait_until(lambda: studio.job(endless.id).frames_done >= 12, timeout_s=LOADED_S)
        os.kill(studio._supervisor.pids[-1], signal.SIGSTOP)
        broken = wait_for_end(studio, endless.id, timeout_s=MADE_S)
        assert broken.diagnosis is not None
        assert broken.diagnosis.code == "engine_hung"
        left = {path.name: path for path in Path(str(broken.diagnosis.facts["record"])).iterdir()}
        records = [f"flight_recorder_rank_{rank}" for rank in range(layout.world_size - 1)]
        assert left.keys() >= set(records), f"there are only {sorted(left)}"
        assert all(pickle.loads(left[record].read_bytes())["entries"] for record in records)


@pytest.fixture(scope="module")
def studio(checkpoint: Path, folder: Path) -> Iterator[StudioOfCards]:
    """A running app whose two cards share every layer."""
    with running(TENSOR, checkpoint, folder / "kept") as studio:
        yield studio


def test_a_killed_rank_is_named_and_the_next_video_is_made(
    videos: Videos, studio: StudioOfCards, folder: Path
) -> None:
    """The other card waits in a collective for the one that is gone."""
    with explained(studio.config.data_dir):
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
        again = studio.submit(request_of(SECONDS, folder, SIDE, SIDE, AUTO))
        pictures = pictures_of(studio, wait_for_end(studio, again.id, timeout_s=LOADED_S))
    assert np.array_equal(pictures, videos.of(TENSOR))


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

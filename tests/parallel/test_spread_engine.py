"""The engine over several ranks makes the file that one rank makes, byte for byte."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.core.request import GenerationRequest, ValidatedRequest
from liveavatar.intake.validate import validate
from tests.parallel.engine_run import make_videos
from tests.parallel.rank_pool import RankPool
from tests.tiny_checkpoint import write_tiny_checkpoint

ONE = ParallelPlan(step_split=(4,))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> ExecutionPlan:
    checkpoint = write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    files = ModelFiles(
        checkpoint=str(checkpoint),
        lora=str(checkpoint.parent / "LiveAvatar" / "liveavatar.safetensors"),
        cache=str(tmp_path_factory.mktemp("cache")),
    )
    return ExecutionPlan(engine="s2v", width=64, height=64, model=files, parallel=ONE)


def with_parallel(plan: ExecutionPlan, parallel: ParallelPlan) -> ExecutionPlan:
    return dataclasses.replace(plan, parallel=parallel)


@pytest.fixture
def request_of(tmp_path: Path, make_voice: Callable[[float], Path]) -> Callable[[float], ValidatedRequest]:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None], (1, 64, 3))).save(picture)

    def make(seconds: float) -> ValidatedRequest:
        raw = GenerationRequest(
            image_path=str(picture), audio_path=str(make_voice(seconds)), prompt="she smiles"
        )
        return validate(raw, job_id="a", job_dir=tmp_path, max_audio_s=600).request

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the ranks: the number of threads may decide a last bit."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def test_pipeline_with_a_decoder_of_its_own(
    pool: RankPool, plan: ExecutionPlan, request_of: Callable[[float], ValidatedRequest]
) -> None:
    """2.2 s are 5 blocks: the cache rolls and the sink is refreshed. A video before it is stopped after 2."""
    request = request_of(2.2)
    spread = with_parallel(plan, ParallelPlan(step_split=(1, 1), decoder_has_own_rank=True))
    jobs = [(request, spread, 2), (request, spread, 0)]
    *silent, speaking = pool.call(make_videos, 3, plan=spread, jobs=jobs)
    assert all(video == (b"", []) for videos in silent for video in videos)
    (stopped, stopped_events), (whole, whole_events) = speaking
    alone = with_parallel(plan, ParallelPlan(step_split=(2,)))
    assert whole == make_videos(alone, [(request, alone, 0)])[0][0]
    assert whole_events[-1] == "Finished"
    assert whole_events.count("Finished") == 1
    assert stopped_events[-1] == "Cancelled"
    with av.open(io.BytesIO(stopped)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 24


def test_layers_and_another_number_of_steps(
    pool: RankPool, plan: ExecutionPlan, request_of: Callable[[float], ValidatedRequest]
) -> None:
    """Ranks that were loaded for four steps make a video in two."""
    request = request_of(0.9)
    spread = with_parallel(plan, ParallelPlan(step_split=(4,), layer_parts=2))
    quick = with_parallel(plan, ParallelPlan(step_split=(2,), layer_parts=2))
    silent, speaking = pool.call(make_videos, 2, plan=spread, jobs=[(request, quick, 0)])
    assert silent == [(b"", [])]
    alone = with_parallel(plan, ParallelPlan(step_split=(2,)))
    assert speaking[0][0] == make_videos(alone, [(request, alone, 0)])[0][0]

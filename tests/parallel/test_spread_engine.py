"""The engine over several ranks makes the file that one rank makes, byte for byte."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
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


@pytest.mark.parametrize(
    ("parallel", "other_steps"),
    [
        (ParallelPlan(step_split=(3, 1), decoder_has_own_rank=True), (1, 1)),
        (ParallelPlan(step_split=(4,), layer_parts=2), (2,)),
    ],
    ids=["pipeline with a decoder of its own", "layers"],
)
def test_same_file_as_from_one_rank(
    plan: ExecutionPlan,
    request_of: Callable[[float], ValidatedRequest],
    parallel: ParallelPlan,
    other_steps: tuple[int, ...],
) -> None:
    """2.2 s are 5 blocks: the cache rolls, the sink is refreshed. Then other steps; then a stop; then all again."""
    request = request_of(2.2)
    spread = with_parallel(plan, parallel)
    fewer = with_parallel(plan, dataclasses.replace(parallel, step_split=other_steps))
    jobs = [(request, spread, 0), (request, fewer, 0), (request, spread, 3), (request, spread, 0)]
    with RankPool() as pool:
        *silent, speaking = pool.call(make_videos, parallel.world_size, plan=spread, jobs=jobs)
    assert all(video == (b"", []) for videos in silent for video in videos)
    (whole, whole_events), (quick, _), (stopped, stopped_events), (again, _) = speaking

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = with_parallel(plan, dataclasses.replace(ONE, step_split=(parallel.num_steps,)))
    quick_alone = with_parallel(plan, ParallelPlan(step_split=(sum(other_steps),)))
    (expected, _), (expected_quick, _) = make_videos(alone, [(request, alone, 0), (request, quick_alone, 0)])
    torch.set_num_threads(num_threads)
    assert whole == again == expected
    assert quick == expected_quick != expected
    assert whole_events[-1] == "Finished"
    assert whole_events.count("Finished") == 1
    assert stopped_events[-1] == "Cancelled"
    with av.open(io.BytesIO(stopped)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 36

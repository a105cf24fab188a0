"""Every plan gives the latents of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from liveavatar.core.parallel import ParallelPlan
from tests.parallel.plan_run import Video, by_one_process, by_ranks, write_checkpoint
from tests.parallel.rank_pool import RankPool
from tests.parity.golden import relative_error

# 6 blocks roll the cache, which holds 4, and refresh the sink; 4 end where the refresh would show; 2 end before it.
VIDEOS = [Video(), Video(num_blocks=4), Video(num_blocks=2), Video(stop_after=3), Video(stop_after=0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(path)
    return path


class Expected:
    """What one process makes, computed once per kind of video."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[tuple[Video, int], list[Tensor]] = {}

    def latents(self, video: Video, num_steps: int) -> list[Tensor]:
        whole = replace(video, num_blocks=Video.num_blocks, stop_after=None)
        key = whole, num_steps
        if key not in self._known:
            self._known[key] = by_one_process(self._folder, *key)
        num_blocks = video.num_blocks if video.stop_after is None else video.stop_after
        return self._known[key][:num_blocks]


@pytest.fixture(scope="module")
def expected(folder: Path) -> Expected:
    return Expected(folder)


def run(
    pool: RankPool, plan: ParallelPlan, folder: Path, videos: list[Video], **options: bool
) -> list[Tensor]:
    """Return the latents of each video, one tensor per video; every rank must be done with each block once."""
    answers = pool.call(by_ranks, plan.world_size, plan=plan, folder=folder, videos=videos, **options)
    made: list[list[Tensor]] = answers[-1]["made"]
    for answer in answers:
        assert [len(blocks) for blocks in answer["made"]] == [len(blocks) for blocks in made]
    return [torch.stack(blocks) if blocks else torch.empty(0) for blocks in made]


PIPELINES = [
    ParallelPlan(step_split=(2, 2)),
    ParallelPlan(step_split=(1, 3), decoder_has_own_rank=True),
    ParallelPlan(step_split=(1, 1, 1)),
    ParallelPlan(step_split=(1, 1, 1, 1), decoder_has_own_rank=True),
    ParallelPlan(step_split=(1,), decoder_has_own_rank=True),
    ParallelPlan(step_split=(4,), layer_parts=3),
    ParallelPlan(step_split=(1, 2), layer_parts=2, decoder_has_own_rank=True),
    ParallelPlan(step_split=(4,), layer_parts=4, decoder_has_own_rank=True),
]
SHARDED = [
    ParallelPlan(step_split=(2, 2), weights_sharded=True),
    ParallelPlan(step_split=(1, 1, 1), weights_sharded=True, decoder_has_own_rank=True),
]
TENSOR = [
    ParallelPlan(step_split=(4,), tensor=2),
    ParallelPlan(step_split=(2,), tensor=4, decoder_has_own_rank=True),
    ParallelPlan(step_split=(1,), tensor=5),
    ParallelPlan(step_split=(2, 1), tensor=2, decoder_has_own_rank=True),
    ParallelPlan(step_split=(2,), tensor=2, layer_parts=2),
]


@pytest.mark.parametrize("plan", [*PIPELINES, *SHARDED], ids=ParallelPlan.describe)
def test_pipelines_and_sharded_weights_change_no_bit(
    pool: RankPool, folder: Path, expected: Expected, plan: ParallelPlan
) -> None:
    for video, made in zip(VIDEOS, run(pool, plan, folder, VIDEOS), strict=True):
        blocks = expected.latents(video, plan.num_steps)
        assert len(made) == len(blocks), video
        if blocks:
            assert torch.equal(made, torch.stack(blocks)), video


# In the first clip, in the second, and in the very first block.
FEWER = [Video(steps=(4, 4, 3, 3, 2, 2)), Video(steps=(4, 4, 4, 4, 4, 1)), Video(steps=(2, 2, 2, 1, 1, 1))]
FOUR_STEPS = [
    ParallelPlan(step_split=(2, 2)),
    ParallelPlan(step_split=(1, 3), decoder_has_own_rank=True),
    ParallelPlan(step_split=(1, 1, 1, 1), decoder_has_own_rank=True),
    ParallelPlan(step_split=(4,), layer_parts=3),
    ParallelPlan(step_split=(2, 2), layer_parts=2, decoder_has_own_rank=True),
]


@pytest.mark.parametrize("plan", FOUR_STEPS, ids=ParallelPlan.describe)
def test_fewer_steps_from_a_block_on_are_those_of_one_process(
    pool: RankPool, folder: Path, expected: Expected, plan: ParallelPlan
) -> None:
    for video, made in zip(FEWER, run(pool, plan, folder, FEWER), strict=True):
        assert torch.equal(made, torch.stack(expected.latents(video, 4))), video
    unchanged = expected.latents(Video(), 4)
    assert not torch.equal(expected.latents(FEWER[0], 4)[2], unchanged[2]), "the number of steps shows"


def test_fewer_steps_in_a_tensor_group(pool: RankPool, folder: Path, expected: Expected) -> None:
    (made,) = run(pool, ParallelPlan(step_split=(2, 2), tensor=2), folder, FEWER[:1])
    assert relative_error(made, torch.stack(expected.latents(FEWER[0], 4))) < 1e-5


@pytest.mark.parametrize("plan", TENSOR, ids=ParallelPlan.describe)
def test_tensor_groups_differ_by_rounding_only(
    pool: RankPool, folder: Path, expected: Expected, plan: ParallelPlan
) -> None:
    for video, made in zip(VIDEOS, run(pool, plan, folder, VIDEOS), strict=True):
        blocks = expected.latents(video, plan.num_steps)
        assert len(made) == len(blocks), video
        if blocks:
            assert relative_error(made, torch.stack(blocks)) < 1e-5, video


def test_tensor_groups_in_8_bits_are_as_exact_as_one_process(pool: RankPool, folder: Path) -> None:
    """A rank's columns have scales of their own, so numbers differ within what 8 bits cost anyway."""
    plan, video = ParallelPlan(step_split=(2,), tensor=2), Video(fp8=True)
    exact = torch.stack(by_one_process(folder, Video(), 2))
    alone = torch.stack(by_one_process(folder, video, 2))
    made = run(pool, plan, folder, [video])[0]
    assert not torch.equal(made, exact)
    assert relative_error(made, exact) < 1.3 * relative_error(alone, exact)


@pytest.mark.parametrize("video", [Video(fp8=True), Video()], ids=["8 bits", "rows in host memory"])
def test_sharded_weights_in_8_bits_and_in_host_memory(
    pool: RankPool, folder: Path, expected: Expected, video: Video
) -> None:
    plan = ParallelPlan(step_split=(1, 1), weights_sharded=True)
    made = run(pool, plan, folder, [video], keep_on_host=not video.fp8)[0]
    assert torch.equal(made, torch.stack(expected.latents(video, 2)))

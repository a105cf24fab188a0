"""Ranks on machines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveavatar.core.parallel import ParallelPlan
from liveavatar.planning.placement import place_ranks


@pytest.mark.parametrize(
    ("parallel", "slots", "counts"),
    [
        (ParallelPlan(step_split=(4,)), [1, 8], [1, 0]),
        (ParallelPlan(step_split=(2, 2)), [1, 1], [1, 1]),
        (ParallelPlan(step_split=(2, 2), tensor=2, decoder_has_own_rank=True), [2, 3], [2, 3]),
        (ParallelPlan(step_split=(2, 2), tensor=2, decoder_has_own_rank=True), [3, 3], [2, 3]),
        (ParallelPlan(step_split=(1, 1, 1, 1), decoder_has_own_rank=True), [4, 4], [4, 1]),
        (ParallelPlan(step_split=(4,), tensor=4), [2, 2], None),
        (ParallelPlan(step_split=(4,), tensor=4), [2, 4], [0, 4]),
        (ParallelPlan(step_split=(2, 2), weights_sharded=True), [1, 1], None),
    ],
)
def test_stages_stay_together(parallel: ParallelPlan, slots: list[int], counts: list[int] | None) -> None:
    assert place_ranks(parallel, slots) == counts


@given(
    split=st.lists(st.integers(1, 2), min_size=1, max_size=4).filter(lambda split: sum(split) <= 4),
    tensor=st.integers(1, 4),
    own=st.booleans(),
    slots=st.lists(st.integers(1, 8), min_size=1, max_size=4),
)
def test_every_rank_has_a_place_or_there_is_none(
    split: list[int], tensor: int, own: bool, slots: list[int]
) -> None:
    parallel = ParallelPlan(step_split=tuple(split), tensor=tensor, decoder_has_own_rank=own)
    counts = place_ranks(parallel, slots)
    if counts is None:
        assert sum(slots) < parallel.world_size or any(slot % tensor for slot in slots) or tensor > min(slots)
        return
    assert sum(counts) == parallel.world_size
    assert all(count <= slot for count, slot in zip(counts, slots, strict=True))

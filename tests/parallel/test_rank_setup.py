"""Which process groups a rank makes for a plan on cards, without any card: what PyTorch is asked for is looked at."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from liveavatar.core.parallel import ParallelPlan
from liveavatar.engines.s2v.rank_setup import LINK_DEADLINE_S, join

PLANS = [
    ParallelPlan(step_split=(2, 2), tensor=2),
    ParallelPlan(step_split=(4,), layer_parts=4),
    ParallelPlan(step_split=(4,), tensor=2, layer_parts=2),
    ParallelPlan(step_split=(1, 1, 1, 1), weights_sharded=True),
]


def groups_of(rank: int, plan: ParallelPlan, patch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what the rank asks PyTorch for, the group of all ranks first."""
    asked: list[dict[str, Any]] = []
    for name in ("RANK", "LOCAL_RANK"):
        patch.setenv(name, str(rank))
    patch.setenv("LOCAL_WORLD_SIZE", str(plan.world_size))
    patch.setattr(torch.cuda, "device_count", lambda: plan.world_size)
    patch.setattr(dist, "get_world_size", lambda: plan.world_size)
    patch.setattr(
        dist, "init_process_group", lambda backend, **rest: asked.append({"backend": backend} | rest)
    )
    patch.setattr(dist, "new_group", lambda ranks, **rest: asked.append({"ranks": ranks} | rest))
    join(plan, torch.device("cuda", rank))
    return asked


@pytest.mark.parametrize("plan", PLANS, ids=ParallelPlan.describe)
def test_no_rank_waits_for_one_that_makes_no_such_group(
    plan: ParallelPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bound to a card, the group of all ranks would make ranks outside a host-memory group wait for those inside."""
    by_rank = [groups_of(rank, plan, monkeypatch) for rank in range(plan.world_size)]
    for rank, (everyone, *groups) in enumerate(by_rank):
        assert everyone.get("device_id") is None
        on_cards = [group for group in groups if "nccl" in group["backend"]]
        assert on_cards, "the plan needs them"
        assert {group["device_id"] for group in on_cards} == {torch.device("cuda", rank)}
    orders = [[(group["ranks"], group["backend"]) for group in groups] for _, *groups in by_rank]
    assert all(order == orders[0] for order in orders), "all ranks make all groups, in the same order"


@pytest.mark.parametrize("plan", PLANS, ids=ParallelPlan.describe)
def test_cards_wait_for_a_rank_that_compiles(plan: ParallelPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits on a card for longer than its group's time ends the process, whatever deadline the waiting has."""
    for rank in range(plan.world_size):
        times = {group["timeout"] for group in groups_of(rank, plan, monkeypatch)}
        assert times == {timedelta(seconds=LINK_DEADLINE_S)}

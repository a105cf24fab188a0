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
    ParallelPlan(step_split=(4,), layer_parts=3, decoder_has_own_rank=True),
    ParallelPlan(step_split=(2, 2), weights_sharded=True, decoder_has_own_rank=True),
]


def groups_of(
    rank: int,
    plan: ParallelPlan,
    patch: pytest.MonkeyPatch,
    *,
    num_local: int | None = None,
    num_cards: int | None = None,
) -> list[dict[str, Any]]:
    """Return what the rank asks PyTorch for, the group of all ranks first.

    `num_local` ranks are on its machine, which has `num_cards`: all ranks of the plan, and as many cards.
    """
    asked: list[dict[str, Any]] = []
    for name in ("RANK", "LOCAL_RANK"):
        patch.setenv(name, str(rank))
    patch.setenv("LOCAL_WORLD_SIZE", str(num_local or plan.world_size))
    patch.setattr(torch.cuda, "device_count", lambda: num_cards or plan.world_size)
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


def test_a_machine_whose_ranks_share_a_card_joins_one_whose_ranks_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ranks of a group agree on how they talk; others may take it for a group of another kind."""
    plan = ParallelPlan(step_split=(2, 2), layer_parts=2)
    cards = {0: 2, 1: 2, 2: 1, 3: 1}
    by_rank = [
        groups_of(rank, plan, monkeypatch, num_local=2, num_cards=num_cards)[1:]
        for rank, num_cards in cards.items()
    ]
    kinds = []
    for asked in zip(*by_rank, strict=True):
        ranks = asked[0]["ranks"]
        assert all(group["ranks"] == ranks for group in asked)
        (backend,) = {asked[rank]["backend"] for rank in ranks}
        kinds.append((ranks, backend))
    assert [ranks for ranks, backend in kinds if "nccl" in backend] == [[0, 1]]

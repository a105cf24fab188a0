"""Which ranks send to which: the edges of the block loop's graph, derived from the plan alone.

    source ----feed----> rank 0 --copy--> its tensor group          every stage, per lane of its tensor group:
    last part of a stage --blocks--> first part of the next         part 0 --tokens--> part 1 --tokens--> ...
    last part of the last stage --blocks--> decoder                 part 0 <----------back---------- last part

An edge exists only where its two ends are different ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from liveavatar.core.parallel import ParallelPlan, StagePlan

WireKind = Literal["feed", "copy", "blocks", "tokens", "back"]


@dataclass(frozen=True)
class Wire:
    """A one-way connection that carries messages in order."""

    kind: WireKind
    sender: int
    receiver: int


def wires(plan: ParallelPlan) -> tuple[Wire, ...]:
    """Return all connections of a plan, in the same order on every rank."""
    return tuple(_wires(plan))


def blocks_ahead(plan: ParallelPlan) -> int:
    """Return how many blocks a source on the decoder's rank sends before the first comes back: no stage waits."""
    return (len(plan.step_split) + 1) * plan.layer_parts


def _wires(plan: ParallelPlan) -> Iterator[Wire]:
    stages = tuple(plan.stages())
    if plan.decoder_has_own_rank:
        yield Wire("feed", plan.source_rank, 0)
    for lane in range(1, plan.tensor):
        yield Wire("copy", 0, lane)
    for index, stage in enumerate(stages):
        yield from _within(plan, stage)
        last_part = stage.ranks[-plan.tensor :]
        if index + 1 < len(stages):
            for sender, receiver in zip(last_part, stages[index + 1].ranks[: plan.tensor], strict=True):
                yield Wire("blocks", sender, receiver)
        elif plan.decoder_has_own_rank:
            yield Wire("blocks", last_part[-1], plan.decoder_rank)


def _within(plan: ParallelPlan, stage: StagePlan) -> Iterator[Wire]:
    if plan.layer_parts == 1:
        return
    for sender, receiver in zip(stage.ranks, stage.ranks[plan.tensor :], strict=False):
        yield Wire("tokens", sender, receiver)
    for sender, receiver in zip(stage.ranks[-plan.tensor :], stage.ranks, strict=False):
        yield Wire("back", sender, receiver)

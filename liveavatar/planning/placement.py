"""Which ranks run on which of several machines."""

from __future__ import annotations

from collections.abc import Sequence

from liveavatar.core.parallel import ParallelPlan

Slots = tuple[
    tuple[str, int], ...
]  # (machine, how many ranks it takes at most), the app's own first, called ""


def place_ranks(parallel: ParallelPlan, slots: Sequence[int]) -> list[int] | None:
    """Return how many consecutive ranks each machine takes, None when they do not fit.

    `slots` holds what each machine takes at most, the app's own first. The ranks of one stage stay together, and
    all that share weights do: they exchange far more with each other than stages do.
    """
    groups = [parallel.ranks_per_stage] * len(parallel.step_split)
    if parallel.weights_sharded:
        groups = [parallel.num_denoising_ranks]
    if parallel.decoder_has_own_rank:
        groups.append(1)
    counts = [0] * len(slots)
    machine = 0
    for size in groups:
        while machine < len(slots) and counts[machine] + size > slots[machine]:
            machine += 1
        if machine == len(slots):
            return None
        counts[machine] += size
    return counts

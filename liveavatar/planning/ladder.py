"""How a running video gets along with less memory: step by step, each step a plan that needs less than the one before.

The engine climbs down when an allocation fails, one rung at a time, and walks ahead as far as the forecast says when
other programs have taken memory. It never climbs up within a video.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Iterator, Sequence

from liveavatar.core.memory import MemoryBudget
from liveavatar.core.plan import ExecutionPlan
from liveavatar.planning import layouts, memory_model
from liveavatar.planning.choice import smaller_sizes
from liveavatar.planning.layouts import Configuration
from liveavatar.planning.model_spec import VideoSize, parts

Picture = tuple[int, int]  # width and height of the portrait in pixels
Rung = Callable[
    [ExecutionPlan, Picture], ExecutionPlan | None
]  # None: there is nothing left to save that way


def free_caches(plan: ExecutionPlan, picture: Picture) -> ExecutionPlan | None:
    """Change nothing: what the allocator keeps for later is given back before every new try."""
    return plan


def decode_in_smaller_pieces(plan: ExecutionPlan, picture: Picture) -> ExecutionPlan | None:
    """Decode one latent frame at a time."""
    return dataclasses.replace(plan, latents_per_decode=1) if plan.latents_per_decode > 1 else None


def decode_in_tiles(plan: ExecutionPlan, picture: Picture) -> ExecutionPlan | None:
    """Decode two parts of the picture in turn."""
    can_be_cut = max(plan.width, plan.height) >= memory_model.SHORTEST_TILED_SIDE
    return dataclasses.replace(plan, tiled_vae=True) if can_be_cut and not plan.tiled_vae else None


def encode_prompt_on_processor(plan: ExecutionPlan, picture: Picture) -> ExecutionPlan | None:
    """Leave the text encoder in host memory."""
    if plan.offload.text_encoder:
        return None
    return dataclasses.replace(plan, offload=dataclasses.replace(plan.offload, text_encoder=True))


def keep_caches_in_8_bits(plan: ExecutionPlan, picture: Picture) -> ExecutionPlan | None:
    """Halve what keys and values take, unless the operator fixed their precision."""
    if plan.kv_precision != "bf16" or plan.fixes_kv_precision:
        return None
    return dataclasses.replace(plan, kv_precision="fp8")


def keep_caches_in_host_memory(plan: ExecutionPlan, picture: Picture) -> ExecutionPlan | None:
    """Bring keys and values to the card layer by layer. Those of 8-bit attention cannot be."""
    if plan.offload.caches or plan.kv_precision == "int8":
        return None
    return dataclasses.replace(plan, offload=dataclasses.replace(plan.offload, caches=True))


def make_smaller(plan: ExecutionPlan, picture: Picture) -> ExecutionPlan | None:
    """Take the next smaller picture size."""
    sizes = smaller_sizes(VideoSize(plan.width, plan.height), picture)
    if not sizes:
        return None
    width, height = sizes[0].width, sizes[0].height
    return dataclasses.replace(plan, width=width, height=height)


def keep_weights_in_8_bits(plan: ExecutionPlan, picture: Picture) -> ExecutionPlan | None:
    """Halve the weights. Those that stream from host memory or are shared out, or were fixed, stay as they are."""
    is_shared_out = plan.parallel is not None and plan.parallel.weights_sharded
    if (
        plan.precision == "fp8"
        or plan.fixes_precision
        or plan.offload.resident_blocks is not None
        or is_shared_out
    ):
        return None
    return dataclasses.replace(plan, precision="fp8")


def stream_weights(plan: ExecutionPlan, picture: Picture) -> ExecutionPlan | None:
    """Keep a quarter of a rank's transformer blocks on its card; the others come from host memory at every step."""
    assert plan.parallel is not None, "a plan for this engine says how it is spread"
    if plan.offload.resident_blocks is not None or not layouts.can_stream_blocks(plan.parallel):
        return None
    fewest = min(num_layers for num_layers, _ in parts(plan.parallel.layer_parts))
    resident = dataclasses.replace(plan.offload, resident_blocks=fewest // 4)
    return dataclasses.replace(plan, offload=resident)


# From the cheapest to the dearest in what a viewer sees.
RUNGS: tuple[Rung, ...] = (
    free_caches,
    decode_in_smaller_pieces,
    decode_in_tiles,
    encode_prompt_on_processor,
    keep_caches_in_8_bits,
    keep_caches_in_host_memory,
    make_smaller,
    keep_weights_in_8_bits,
    stream_weights,
)
_RESTART_SAVES = 0.1  # of what the rank needs, at least
USING_HOST_MEMORY = (keep_caches_in_host_memory, stream_weights)


class Ladder:
    """The way down for one video on one graphics card; remembers what was tried."""

    def __init__(self, plan: ExecutionPlan, picture: Picture) -> None:
        self.plan = plan
        self._picture = picture
        self._skipped: set[Rung] = set()
        self._steps = self._down(plan)

    def skip(self, rung: Rung) -> None:
        """Leave out a rung that cannot or must not be used from now on."""
        self._skipped.add(rung)

    def climb_down(self) -> bool:
        """Take the next rung, each once; False when there is none below."""
        for plan in self._steps:
            self.plan = plan
            return True
        return False

    def fit(self, available_bytes: int) -> None:
        """Climb down until the forecast fits into what the card has for this process, or as far as it goes."""
        while needed_bytes(self.plan) > available_bytes and self.climb_down():
            pass

    def move_to(self, plan: ExecutionPlan) -> None:
        """Go on from a plan that the operator wished for."""
        self.plan = plan
        self._steps = self._down(plan)

    def _down(self, plan: ExecutionPlan) -> Iterator[ExecutionPlan]:
        """Yield ever more frugal plans. Every rung is used up before the next; `free_caches` is one try only."""
        for rung in RUNGS:
            while rung not in self._skipped and (lower := rung(plan, self._picture)) is not None:
                is_new, plan = lower != plan, lower
                yield plan
                if not is_new:
                    break


def short_ranks(plan: ExecutionPlan, available_bytes: Sequence[int]) -> list[int]:
    """Return the ranks whose forecast does not fit into what each has; none where there is no forecast."""
    return [
        rank
        for rank, available in enumerate(available_bytes)
        if plan.budgets and needed_bytes(plan, rank) > available
    ]


def fit_ranks(
    plan: ExecutionPlan, picture: Picture, available_bytes: Sequence[int], skipped: Collection[Rung] = ()
) -> ExecutionPlan:
    """Return the first plan downwards that fits every rank, or the most frugal one there is.

    Where several ranks make a video, a rung is taken only if a rank that is short needs less with it. The same
    arguments give the same plan, so that ranks which know them agree.
    """
    while short := short_ranks(plan, available_bytes):
        lower = next(_helping(plan, picture, short, skipped), None)
        if lower is None:
            break
        plan = lower
    return plan


def after_shortage(
    plan: ExecutionPlan, rank: int, picture: Picture, *, pin_size: bool
) -> ExecutionPlan | None:
    """Return what several ranks may try after one of them ran out of memory; None when there is nothing below.

    They have to be started anew, which takes long, so that the rank is to need noticeably less. Weights stay as they
    are. Without a forecast the picture is made smaller.
    """
    if not plan.budgets:
        return None if pin_size else make_smaller(plan, picture)
    skipped: list[Rung] = [free_caches, keep_weights_in_8_bits, stream_weights]
    if pin_size:
        skipped.append(make_smaller)
    may_need = [sys.maxsize] * len(plan.budgets)
    may_need[rank] = int((1 - _RESTART_SAVES) * needed_bytes(plan, rank))
    lower = fit_ranks(plan, picture, may_need, skipped)
    return lower if lower != plan else None


def _helping(
    plan: ExecutionPlan, picture: Picture, short: Sequence[int], skipped: Collection[Rung]
) -> Iterator[ExecutionPlan]:
    """Yield what each rung makes of the plan where that helps one of the ranks."""
    for rung in RUNGS:
        lower = None if rung in skipped else rung(plan, picture)
        if lower and any(needed_bytes(lower, rank) < needed_bytes(plan, rank) for rank in short):
            yield lower


def needed_bytes(plan: ExecutionPlan, rank: int = 0) -> int:
    """Return the forecast of what a rank needs while pictures are made: the prompt was encoded before."""
    return sum(item.num_bytes for item in budget_of(plan, rank).items)


def budget_of(plan: ExecutionPlan, rank: int = 0) -> MemoryBudget:
    """Return the forecast of one rank, item by item, against what its card was planned to offer."""
    assert plan.parallel is not None, "a plan for this engine says how it is spread"
    configuration = Configuration(
        parallel=plan.parallel,
        precision=plan.precision,
        kv_precision=plan.kv_precision,
        offload=dataclasses.replace(plan.offload, text_encoder=False),
        latents_per_decode=plan.latents_per_decode,
        tiled_vae=plan.tiled_vae,
    )
    groups = layouts.rank_groups(configuration, VideoSize(plan.width, plan.height))
    role = layouts.roles_by_rank(groups)[rank]
    planned = plan.budgets[rank]
    items = memory_model.corrected(memory_model.forecast(role), dict(plan.memory_factors))
    return dataclasses.replace(planned, items=items)


def describe(plan: ExecutionPlan, num_steps: int | None = None) -> str:
    """Return what a viewer or an operator may care about: "704x384, 4 steps, 8-bit weights".

    `num_steps` are those made at the moment; None: all of the plan.
    """
    num_steps = num_steps or plan.num_steps
    parts = [f"{plan.width}x{plan.height}", f"{num_steps} step" + "s" * (num_steps != 1)]
    if plan.precision == "fp8":
        parts.append("8-bit weights")
    if plan.offload.resident_blocks is not None:
        parts.append("weights streamed from host memory")
    if plan.kv_precision != "bf16":
        parts.append("8-bit caches")
    if plan.offload.caches:
        parts.append("caches in host memory")
    if plan.latents_per_decode == 1:
        parts.append("decoded in small pieces")
    if plan.tiled_vae:
        parts.append("decoded in 2 tiles")
    if plan.offload.text_encoder:
        parts.append("prompt encoded on the processor")
    return ", ".join(parts)

"""How one stream of the s2v engine is spread over graphics cards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

Precision = Literal["bf16", "fp8"]
# Of the cached keys and values. fp8 only stores them in 8 bits; int8 also multiplies in 8 bits.
KvPrecision = Literal["bf16", "fp8", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
KV_PRECISIONS: tuple[KvPrecision, ...] = get_args(KvPrecision)

LATENTS_PER_BLOCK = 3
MAX_STEPS = 4  # denoising steps the model was distilled for; fewer trade quality for speed


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of the timestep pipeline: consecutive denoising steps and the ranks that run them.

    `ranks` lists the tensor group of the first layer part, then that of the next.
    """

    first_step: int  # from 0
    num_steps: int
    ranks: tuple[int, ...]

    @property
    def steps(self) -> range:
        """Return the steps."""
        return range(self.first_step, self.first_step + self.num_steps)


@dataclass(frozen=True, kw_only=True)
class RankPlace:
    """What a rank does in a plan."""

    rank: int
    stage: StagePlan | None  # None: it holds nothing of the transformer
    layer_part: int = 0
    lane: int = 0  # position in its tensor group
    is_source: bool  # it encodes the prompt and the speech
    decodes: bool  # it encodes the portrait, decodes the blocks and encodes the video


@dataclass(frozen=True, kw_only=True)
class ParallelPlan:
    """Stages of denoising steps, each over `tensor` x `layer_parts` ranks, and the rank that decodes.

    The layer parts of a stage work on as many blocks at a time as there are parts, taking turns: while part 2 has
    step 1 of a block, part 1 has step 1 of the next. A block needs of earlier blocks only what they left in the same
    layer at the same step, so the turns change no picture, and no part waits.
    """

    step_split: tuple[int, ...]  # steps of each stage: (2, 2)
    tensor: int = 1
    layer_parts: int = 1
    weights_sharded: bool = False  # FSDP: each rank keeps a share of every layer and gathers it when needed
    decoder_has_own_rank: bool = False  # otherwise the last rank of the last stage decodes too

    def __post_init__(self) -> None:
        if not self.step_split or min(self.step_split) < 1:
            raise ValueError(f"every stage needs a step, got {self.step_split}")
        if self.tensor < 1 or self.layer_parts < 1:
            raise ValueError(f"degrees start at 1, got tensor {self.tensor}, layers {self.layer_parts}")
        if self.num_steps > MAX_STEPS:
            raise ValueError(f"{self.num_steps} denoising steps; the model works with 1 to {MAX_STEPS}")
        if self.weights_sharded:
            self._check_sharding()

    def _check_sharding(self) -> None:
        """All ranks gather each layer together, so each must be about to use it."""
        if self.ranks_per_stage > 1:
            raise ValueError("sharded weights do not combine with tensor groups or layer parts")
        if len(self.step_split) < 2 or len(set(self.step_split)) > 1:
            raise ValueError(
                f"sharded weights need several stages of equally many steps, got {self.step_split}"
            )

    @property
    def num_steps(self) -> int:
        """Return the denoising steps of all stages."""
        return sum(self.step_split)

    def with_steps(self, num_steps: int) -> ParallelPlan:
        """Return the layout on the same ranks with so many steps, spread evenly, rather more on the first stages.

        Raises ValueError where that cannot be.
        """
        each, num_longer = divmod(num_steps, len(self.step_split))
        split = tuple(each + (stage < num_longer) for stage in range(len(self.step_split)))
        return dataclasses.replace(self, step_split=split)

    @property
    def ranks_per_stage(self) -> int:
        """Return the ranks of one stage."""
        return self.tensor * self.layer_parts

    @cached_property
    def num_denoising_ranks(self) -> int:
        """Return the ranks that hold a part of the transformer."""
        return len(self.step_split) * self.ranks_per_stage

    @cached_property
    def world_size(self) -> int:
        """Return all ranks."""
        return self.num_denoising_ranks + self.decoder_has_own_rank

    @property
    def num_in_turn(self) -> int:
        """Return how many ranks a block passes through one after the other."""
        return len(self.step_split) * self.layer_parts + self.decoder_has_own_rank

    @property
    def decoder_rank(self) -> int:
        """Return the rank that decodes and encodes the video: always the last one."""
        return self.world_size - 1

    @property
    def source_rank(self) -> int:
        """Return the rank that encodes prompt and speech: the decoder's own one, which has time, or the first."""
        return self.decoder_rank if self.decoder_has_own_rank else 0

    def place(self, rank: int) -> RankPlace:
        """Return what a rank does."""
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} of {self.world_size}")
        stage_index, within = divmod(rank, self.ranks_per_stage)
        stages = tuple(self.stages())
        layer_part, lane = divmod(within, self.tensor)
        return RankPlace(
            rank=rank,
            stage=stages[stage_index] if rank < self.num_denoising_ranks else None,
            layer_part=layer_part,
            lane=lane,
            is_source=rank == self.source_rank,
            decodes=rank == self.decoder_rank,
        )

    def stages(self) -> Iterator[StagePlan]:
        """Yield the stages in the order blocks pass through them."""
        first_step = 0
        for index, num_steps in enumerate(self.step_split):
            first_rank = index * self.ranks_per_stage
            yield StagePlan(
                first_step=first_step,
                num_steps=num_steps,
                ranks=tuple(range(first_rank, first_rank + self.ranks_per_stage)),
            )
            first_step += num_steps

    def describe(self) -> str:
        """Return the plan's name: "timestep pipeline 2+2, tensor 2, decoder on a card of its own"."""
        parts = []
        if len(self.step_split) > 1:
            parts.append(f"timestep pipeline {'+'.join(map(str, self.step_split))}")
        if self.tensor > 1:
            parts.append(f"tensor {self.tensor}")
        if self.layer_parts > 1:
            parts.append(f"layers {self.layer_parts}")
        if self.weights_sharded:
            parts.append("sharded weights (FSDP)")
        if not parts:
            parts.append("one card for all steps")
        if self.decoder_has_own_rank:
            parts.append("own decoder card")
        return ", ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Offload:
    """What is kept in host memory and brought to the card when it is needed."""

    resident_blocks: int | None = None  # transformer blocks that stay on each card; None: all
    caches: bool = False  # keys and values of the steps that do not run at the moment
    sharded_weights: bool = False  # the shares of FSDP
    text_encoder: bool = False  # runs on the processor, once per new prompt

    @property
    def is_used(self) -> bool:
        """Whether steps wait for host memory."""
        return self.resident_blocks is not None or self.caches or self.sharded_weights

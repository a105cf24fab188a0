"""Every way to spread one stream over at most N cards, and the rules that forbid some of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

from liveavatar.core.parallel import KvPrecision, Offload, ParallelPlan, Precision
from liveavatar.planning import model_spec
from liveavatar.planning.memory_model import RankRole
from liveavatar.planning.model_spec import VideoSize

# One stream is spread over this many ranks at most; more cards serve more streams.
MAX_WORLD = 16
_MAX_TENSOR, _MAX_LAYER_PARTS = 8, 8
# Latent frames per decoder call, and whether the picture is decoded in tiles; the plainest form is (3, False).
_FRUGAL_DECODER_FORMS = ((1, False), (1, True))
ALL_ON_THE_CARDS = Offload()


class Configuration(NamedTuple):
    """Everything about a stream that decides memory and speed, its picture size excepted."""

    parallel: ParallelPlan
    precision: Precision
    kv_precision: KvPrecision = "bf16"
    offload: Offload = ALL_ON_THE_CARDS
    latents_per_decode: int = 3
    tiled_vae: bool = False

    def describe(self) -> str:
        """Return "timestep pipeline 2+2, fp8, 8-bit caches"."""
        parts = [self.parallel.describe(), self.precision]
        if self.kv_precision == "fp8":
            parts.append("fp8 caches")
        if self.kv_precision == "int8":
            parts.append("8-bit attention")
        if self.offload.resident_blocks is not None:
            parts.append(f"{self.offload.resident_blocks} blocks resident, others streamed")
        if self.offload.sharded_weights:
            parts.append("shares in host memory")
        if self.offload.caches:
            parts.append("caches in host memory")
        if self.tiled_vae:
            parts.append("decoded in 2 tiles")
        return ", ".join(parts)


@lru_cache(maxsize=256)
def parallel_plans(num_gpus: int, num_steps: int) -> tuple[ParallelPlan, ...]:
    """Return every plan for at most `num_gpus` cards that the model's shape allows, those of few ranks first."""
    limit = min(num_gpus, MAX_WORLD)
    return tuple(
        sorted(
            (*_plans_of_whole_weights(limit, num_steps), *_plans_of_sharded_weights(limit, num_steps)),
            key=lambda plan: plan.world_size,
        )
    )


def _plans_of_whole_weights(num_gpus: int, num_steps: int) -> Iterator[ParallelPlan]:
    degrees = [degree for degree in range(1, _MAX_TENSOR + 1) if model_spec.NUM_HEADS % degree == 0]
    for own_decoder, split in itertools.product((False, True), step_splits(num_steps)):
        for tensor, layer_parts in itertools.product(degrees, range(1, _MAX_LAYER_PARTS + 1)):
            if len(split) * tensor * layer_parts + own_decoder <= num_gpus:
                yield ParallelPlan(
                    step_split=split,
                    tensor=tensor,
                    layer_parts=layer_parts,
                    decoder_has_own_rank=own_decoder,
                )


def _plans_of_sharded_weights(num_gpus: int, num_steps: int) -> Iterator[ParallelPlan]:
    """Yield the plans of FSDP. All ranks gather in step, so each has as many steps."""
    for own_decoder, split in itertools.product((False, True), step_splits(num_steps)):
        if 1 < len(split) <= num_gpus - own_decoder and len(set(split)) == 1:
            yield ParallelPlan(step_split=split, weights_sharded=True, decoder_has_own_rank=own_decoder)


def forbidden_plans(num_gpus: int, num_steps: int) -> Iterator[tuple[str, str]]:
    """Yield (name, reason) of plans that people ask for and that the model's shape rules out."""
    for tensor in range(2, min(num_gpus, _MAX_TENSOR) + 1):
        if model_spec.NUM_HEADS % tensor:
            yield (
                f"tensor {tensor}",
                f"{model_spec.NUM_HEADS} attention heads cannot be shared evenly by {tensor} cards.",
            )
    for num_ranks in range(2, min(num_gpus, num_steps) + 1):
        if num_steps % num_ranks:
            yield (
                f"sharded weights (FSDP) over {num_ranks} cards",
                f"All cards gather weights in step, and {num_steps} steps cannot be shared evenly by {num_ranks}.",
            )
    if num_gpus > MAX_WORLD:
        yield (
            f"one stream over {num_gpus} cards",
            f"One stream is spread over at most {MAX_WORLD} cards; use the others for more streams.",
        )


def step_splits(num_steps: int) -> list[tuple[int, ...]]:
    """Return every way to cut the steps into consecutive stages: 3 -> (3), (1, 2), (2, 1), (1, 1, 1)."""
    if num_steps == 0:
        return [()]
    return [
        (first, *rest)
        for first in range(num_steps, 0, -1)
        for rest in step_splits(num_steps - first)
    ]  # fmt: skip


def resident_variants(
    parallel: ParallelPlan, precision: Precision, kv_precisions: Sequence[KvPrecision]
) -> list[Configuration]:
    """Return the plan with everything on the cards, the plainest first; the decoder works as it is fastest."""
    return [Configuration(parallel, precision, kv_precision) for kv_precision in kv_precisions]


def offload_variants(
    parallel: ParallelPlan, precision: Precision, kv_precisions: Sequence[KvPrecision]
) -> list[Configuration]:
    """Return the plan with weights, caches or both in host memory; the decoder works as it is fastest.

    Only for plans that split one thing: timesteps or layers. Tensor groups keep all on their cards.

    `resident_blocks` stands at 0: how many blocks can stay is found when the cards are known.
    """
    if parallel.weights_sharded:
        weights = Offload(sharded_weights=True)
    elif can_stream_blocks(parallel):
        weights = Offload(resident_blocks=0)
    else:
        return []
    choices = weights, dataclasses.replace(weights, caches=True), Offload(caches=True)
    return [
        Configuration(parallel, precision, kv_precision, offload)
        for offload in choices
        for kv_precision in kv_precisions
        # Rows of its caches do not lie side by side, so that a block's cannot be brought back alone.
        if not (offload.caches and kv_precision == "int8")
    ]


def frugal_variants(configuration: Configuration) -> list[Configuration]:
    """Return the same with ways to decode that need ever less memory and more time."""
    return [
        configuration._replace(latents_per_decode=latents, tiled_vae=tiled)
        for latents, tiled in _FRUGAL_DECODER_FORMS
    ]


def can_stream_blocks(parallel: ParallelPlan) -> bool:
    """Whether the blocks of a rank may come from host memory one after the other."""
    splits_both = parallel.layer_parts > 1 and len(parallel.step_split) > 1
    return parallel.tensor == 1 and not splits_both and not parallel.weights_sharded


class _Work(NamedTuple):
    """What decides a rank's share of a plan."""

    num_steps: int
    num_layers: int
    num_injections: int
    decodes: bool
    hears: bool  # encodes the speech


# Ranks that do the same amount of work with the same memory.
RankGroup = tuple[RankRole, tuple[int, ...]]


def rank_groups(configuration: Configuration, size: VideoSize) -> list[RankGroup]:
    """Return the roles of all ranks, equal ones together. Equal roles are the same object, in all plans."""
    parallel, offload = configuration.parallel, configuration.offload
    role_of = _roles(
        size,
        configuration.precision,
        configuration.kv_precision,
        parallel.tensor,
        len(parallel.step_split) if parallel.weights_sharded else 1,
        parallel.world_size > 1,
        offload.resident_blocks,
        offload.caches,
        offload.sharded_weights,
    )
    latents, tiled = configuration.latents_per_decode, configuration.tiled_vae
    return [
        (role_of(work, latents, tiled) if work.decodes else role_of(work, 0, False), ranks)
        for work, ranks in _ranks_by_work(parallel)
    ]


@lru_cache(maxsize=10_000)
def _ranks_by_work(parallel: ParallelPlan) -> tuple[tuple[_Work, tuple[int, ...]], ...]:
    decoder_rank, own_decoder = parallel.decoder_rank, parallel.decoder_has_own_rank
    ranks_of: dict[_Work, list[int]] = {}
    rank = 0
    for num_steps in parallel.step_split:
        for num_layers, num_injections in model_spec.parts(parallel.layer_parts):
            for _ in range(parallel.tensor):
                decodes, hears = rank == decoder_rank, rank == 0 and not own_decoder
                work = _Work(num_steps, num_layers, num_injections, decodes, hears)
                ranks_of.setdefault(work, []).append(rank)
                rank += 1
    if own_decoder:
        ranks_of[_Work(0, 0, 0, decodes=True, hears=True)] = [rank]
    return tuple((work, tuple(ranks)) for work, ranks in ranks_of.items())


@lru_cache(maxsize=2_000)
def _roles(
    size: VideoSize,
    precision: Precision,
    kv_precision: KvPrecision,
    tensor: int,
    weight_shards: int,
    is_one_of_many: bool,
    resident_blocks: int | None,
    caches_on_host: bool,
    shards_on_host: bool,
) -> Callable[[_Work, int, bool], RankRole]:
    """Return what makes a role of a rank's work, latent frames per decoder call and whether it works in tiles.

    Most plans share most of their roles, and what a role needs takes time to compute: each is made once.
    """

    @cache
    def role_of(work: _Work, latents_per_decode: int, tiled_vae: bool) -> RankRole:
        return RankRole(
            size=size,
            num_steps=work.num_steps,
            num_layers=work.num_layers,
            num_injections=work.num_injections,
            tensor=tensor,
            precision=precision,
            kv_precision=kv_precision,
            weight_shards=weight_shards,
            shards_on_host=shards_on_host,
            resident_blocks=resident_blocks,
            caches_on_host=caches_on_host,
            latents_per_decode=latents_per_decode,
            tiled_vae=tiled_vae,
            encodes_speech=work.hears,
            is_one_of_many=is_one_of_many,
        )

    return role_of


def role_name(configuration: Configuration, rank: int) -> str:
    """Return what a rank does: "steps 1-2, layers 1-20"."""
    parallel = configuration.parallel
    if parallel.decoder_has_own_rank and rank == parallel.decoder_rank:
        return "decoder"
    stage = next(stage for stage in parallel.stages() if rank in stage.ranks)
    last_step = stage.first_step + stage.num_steps
    words = f"step {last_step}" if stage.num_steps == 1 else f"steps {stage.first_step + 1}-{last_step}"
    within = stage.ranks.index(rank)
    if parallel.layer_parts > 1:
        layers = model_spec.layers_of_part(parallel.layer_parts)[within // parallel.tensor]
        words += f", layers {layers.start + 1}-{layers.stop}"
    if parallel.tensor > 1:
        words += f", share {within % parallel.tensor + 1}/{parallel.tensor}"
    if rank == parallel.decoder_rank:
        words += ", decoder"
    return words


def roles_by_rank(groups: Sequence[RankGroup]) -> list[RankRole]:
    """Return the role of every rank, in rank order."""
    by_rank = {rank: role for role, ranks in groups for rank in ranks}
    return [by_rank[rank] for rank in range(len(by_rank))]

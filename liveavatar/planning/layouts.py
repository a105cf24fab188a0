"""Every way to spread one stream over at most N cards, and the rules that forbid some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from liveavatar.core.parallel import KvPrecision, Offload, ParallelPlan, Precision
from liveavatar.planning import model_spec
from liveavatar.planning.memory_model import RankRole, forecast_bytes
from liveavatar.planning.model_spec import VideoSize

# One stream is spread over this many ranks at most; more cards serve more streams.
MAX_WORLD = 16
_MAX_TENSOR, _MAX_LAYER_PARTS = 8, 8
# Latent frames per decoder call and tiles of the picture, the plainest first; each needs less memory than the last.
_DECODER_FORMS = ((3, 1), (1, 1), (1, 2))


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Everything about a stream that decides memory and speed, its picture size excepted."""

    parallel: ParallelPlan
    precision: Precision
    kv_precision: KvPrecision = "bf16"
    offload: Offload = field(default_factory=Offload)
    latents_per_decode: int = 3
    vae_tiles: int = 1

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
        if self.vae_tiles > 1:
            parts.append(f"decoded in {self.vae_tiles} tiles")
        return ", ".join(parts)


def parallel_plans(num_gpus: int, num_steps: int) -> Iterator[ParallelPlan]:
    """Yield every plan for at most `num_gpus` cards that the model's shape allows."""
    limit = min(num_gpus, MAX_WORLD)
    for own_decoder in (False, True):
        for split in step_splits(num_steps):
            for tensor in range(1, _MAX_TENSOR + 1):
                if model_spec.NUM_HEADS % tensor:
                    continue
                for layer_parts in range(1, _MAX_LAYER_PARTS + 1):
                    world = len(split) * tensor * layer_parts + own_decoder
                    if world <= limit:
                        yield ParallelPlan(
                            step_split=split,
                            tensor=tensor,
                            layer_parts=layer_parts,
                            decoder_has_own_rank=own_decoder,
                        )


def sharded_plans(num_gpus: int, num_steps: int) -> Iterator[ParallelPlan]:
    """Yield the plans whose weights are shared out (FSDP). All ranks gather in step, so each has as many steps."""
    for own_decoder in (False, True):
        for split in step_splits(num_steps):
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
    parallel: ParallelPlan, precision: Precision, kv_precisions: tuple[KvPrecision, ...]
) -> list[Configuration]:
    """Return the plan with everything on the cards, the plainest first."""
    return [
        Configuration(
            parallel=parallel,
            precision=precision,
            kv_precision=kv_precision,
            latents_per_decode=latents,
            vae_tiles=tiles,
        )
        for kv_precision in kv_precisions
        for latents, tiles in _DECODER_FORMS
    ]


def offload_variants(
    parallel: ParallelPlan, precision: Precision, kv_precisions: tuple[KvPrecision, ...]
) -> list[Configuration]:
    """Return the plan with weights, caches or both in host memory.

    Only for plans that split one thing: timesteps or layers. Tensor groups keep all on their cards.

    `resident_blocks` stands at 0: how many blocks can stay is found when the cards are known.
    """
    if not parallel.weights_sharded and not can_stream_blocks(parallel):
        return []
    if parallel.weights_sharded:
        choices = [
            Offload(sharded_weights=True),
            Offload(sharded_weights=True, caches=True),
            Offload(caches=True),
        ]
    else:
        choices = [Offload(resident_blocks=0), Offload(resident_blocks=0, caches=True), Offload(caches=True)]
    return [
        Configuration(
            parallel=parallel,
            precision=precision,
            kv_precision=kv_precision,
            offload=offload,
            latents_per_decode=latents,
            vae_tiles=tiles,
        )
        for offload in choices
        for kv_precision in kv_precisions
        # Rows of its caches do not lie side by side, so that a block's cannot be brought back alone.
        if not (offload.caches and kv_precision == "int8")
        for latents, tiles in _DECODER_FORMS
    ]


def can_stream_blocks(parallel: ParallelPlan) -> bool:
    """Whether the blocks of a rank may come from host memory one after the other."""
    splits_both = parallel.layer_parts > 1 and len(parallel.step_split) > 1
    return parallel.tensor == 1 and not splits_both and not parallel.weights_sharded


@dataclass(frozen=True, kw_only=True)
class RankGroup:
    """Ranks that do the same amount of work with the same memory."""

    role: RankRole
    ranks: tuple[int, ...]
    num_bytes: int  # the forecast for each of them


# What decides a rank's share of a plan: steps, layers, audio injections, whether it decodes, whether it hears.
_Work = tuple[int, int, int, bool, bool]


@lru_cache(maxsize=50_000)
def rank_groups(configuration: Configuration, size: VideoSize) -> tuple[RankGroup, ...]:
    """Return the roles of all ranks, equal ones together."""
    offload, parallel = configuration.offload, configuration.parallel
    decoder_form = configuration.latents_per_decode, configuration.vae_tiles
    spread = (
        parallel.tensor,
        len(parallel.step_split) if parallel.weights_sharded else 1,
        parallel.world_size > 1,
    )
    kept = offload.resident_blocks, offload.caches, offload.sharded_weights
    precisions = configuration.precision, configuration.kv_precision
    groups = []
    for work, ranks in _ranks_by_work(parallel):
        role, num_bytes = _role(size, work, precisions, spread, kept, decoder_form if work[3] else (0, 1))
        groups.append(RankGroup(role=role, ranks=ranks, num_bytes=num_bytes))
    return tuple(groups)


@lru_cache(maxsize=10_000)
def _ranks_by_work(parallel: ParallelPlan) -> tuple[tuple[_Work, tuple[int, ...]], ...]:
    decoder_rank, own_decoder = parallel.decoder_rank, parallel.decoder_has_own_rank
    ranks_of: dict[_Work, list[int]] = {}
    rank = 0
    for num_steps in parallel.step_split:
        for num_layers, num_injections in model_spec.parts(parallel.layer_parts):
            for _ in range(parallel.tensor):
                decodes, hears = rank == decoder_rank, rank == 0 and not own_decoder
                ranks_of.setdefault((num_steps, num_layers, num_injections, decodes, hears), []).append(rank)
                rank += 1
    if own_decoder:
        ranks_of[0, 0, 0, True, True] = [rank]
    return tuple((work, tuple(ranks)) for work, ranks in ranks_of.items())


@lru_cache(maxsize=50_000)
def _role(
    size: VideoSize,
    work: _Work,
    precisions: tuple[Precision, KvPrecision],
    spread: tuple[int, int, bool],
    kept: tuple[int | None, bool, bool],
    decoder_form: tuple[int, int],
) -> tuple[RankRole, int]:
    """Return a role and its forecast. Most plans share most of their roles, and building one takes time."""
    num_steps, num_layers, num_injections, _, hears = work
    tensor, weight_shards, is_one_of_many = spread
    resident_blocks, caches_on_host, shards_on_host = kept
    role = RankRole(
        size=size,
        num_steps=num_steps,
        num_layers=num_layers,
        num_injections=num_injections,
        tensor=tensor,
        precision=precisions[0],
        kv_precision=precisions[1],
        weight_shards=weight_shards,
        shards_on_host=shards_on_host,
        resident_blocks=resident_blocks,
        caches_on_host=caches_on_host,
        latents_per_decode=decoder_form[0],
        vae_tiles=decoder_form[1],
        encodes_speech=hears,
        is_one_of_many=is_one_of_many,
    )
    return role, forecast_bytes(role)


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
    by_rank = {rank: group.role for group in groups for rank in group.ranks}
    return [by_rank[rank] for rank in range(len(by_rank))]

"""One video as several ranks make it together. Needs no media library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from liveavatar.conditioning.reference import SinkLatents
from liveavatar.core.parallel import KvPrecision
from liveavatar.engines.s2v.meter import Meter
from liveavatar.engines.s2v.rank_setup import Rank
from liveavatar.models.s2v import S2VTransformer, TokenGrid
from liveavatar.models.s2v.config import CLIP_BLOCKS
from liveavatar.parallel.cache_offload import HostCaches
from liveavatar.parallel.fsdp import in_step
from liveavatar.pipeline.block_loop import Admit, KeptReference, denoise_blocks, noise_blocks
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.layer_part import PartDenoiser
from liveavatar.pipeline.message import BlockMessage
from liveavatar.pipeline.randomness import Randomness
from liveavatar.pipeline.rank_loop import run_rank


def clean_blocks(
    rank: Rank,
    model: S2VTransformer | None,
    *,
    grid: TokenGrid,
    dtype: torch.dtype,
    text: Tensor,
    sink: SinkLatents,
    speech: Iterable[Tensor],
    randomness: Randomness,
    admit: Admit,
    blocks_per_clip: int = CLIP_BLOCKS,
    kv_precision: KvPrecision = "bf16",
    host_caches: HostCaches | None = None,
    goes_on: bool = False,
    meter: Meter | None = None,
) -> Iterator[BlockMessage]:
    """Do this rank's share; yield each block that it is done with, with clean latents on the rank that decodes.

    `model` is this rank's share, None where it has none. `text` and `sink` are the same on all ranks with a model.
    `speech`, the features of each block, is used on the source rank alone, `admit` on rank 0 alone. `goes_on`: the
    sink is made from the latest pictures of a video that was broken off, and the reference stays.
    """
    like = torch.empty(0, device=rank.device, dtype=dtype)

    def draw(clip: int) -> Tensor:
        return randomness.clip_noise(clip, height=grid.latent_height, width=grid.latent_width, like=like)

    def denoise(messages: Iterable[BlockMessage]) -> Iterator[BlockMessage]:
        assert model is not None, "a rank with denoising steps has a part of the transformer"
        denoiser = _denoiser(
            rank,
            model,
            grid=grid,
            text=text,
            sink_distance=randomness.sink_distance,
            num_steps=rank.plan.num_steps,
            blocks_per_clip=blocks_per_clip,
            kv_precision=kv_precision,
            host_caches=host_caches,
        )
        done = denoise_blocks(
            messages,
            denoiser,
            sink,
            KeptReference(sink.reference) if goes_on else rank.refresh(sink.reference),
            blocks_per_clip=blocks_per_clip,
            in_step=lambda: _in_step(rank, model),
        )
        if meter is None:
            return done
        meter.note_resident(denoiser.kept_tensors)
        return meter.watch(done, "activations")

    return run_rank(
        rank.plan,
        rank.place,
        rank.links,
        source=noise_blocks(
            (features.to(rank.device) for features in speech),
            draw,
            num_steps=lambda: rank.plan.num_steps,
            blocks_per_clip=blocks_per_clip,
        ),
        denoise=denoise,
        admit=admit,
        blocks_per_clip=blocks_per_clip,
    )


def _denoiser(rank: Rank, model: S2VTransformer, **settings: Any) -> BlockDenoiser | PartDenoiser:
    stage = rank.place.stage
    assert stage is not None, "this rank denoises"
    if rank.plan.layer_parts == 1:
        return BlockDenoiser(model, steps=stage.steps, **settings)
    behind = rank.links.outgoing("tokens")
    return PartDenoiser(
        model,
        steps=stage.steps,
        before=rank.links.incoming("tokens"),
        behind=behind[0] if behind else None,
        **settings,
    )


def _in_step(rank: Rank, model: S2VTransformer) -> AbstractContextManager[None]:
    stage = rank.place.stage
    if not rank.plan.weights_sharded or stage is None:
        return nullcontext()
    num_stages = len(rank.plan.step_split)
    return in_step(
        model, lead=rank.place.rank, trail=num_stages - 1 - rank.place.rank, rounds=stage.num_steps
    )

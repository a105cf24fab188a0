"""From latents to pictures, block by block, in memory that does not grow.

Shapes: latents [16, 3, h, w]; pictures [1, 3, frames, H, W] in -1..1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from liveavatar.models.s2v.config import FRAMES_PER_BLOCK
from liveavatar.models.vae import FRAMES_PER_LATENT, StreamingVae, VaeCache

PICTURES_PER_BLOCK = FRAMES_PER_BLOCK * FRAMES_PER_LATENT
WARM_UP_LATENTS = 7  # of the motion before the video that a streaming decoder is shown first


def decode_blocks(
    vae: StreamingVae,
    motion: Tensor,
    blocks: Iterable[Tensor],
    *,
    num_skipped_pictures: int = 0,
    latents_per_decode: int = FRAMES_PER_BLOCK,
) -> Iterator[Tensor]:
    """Yield the 12 pictures of each block of latents; `motion` [1, 16, T, h, w] is what was before them.

    The published pipeline skips the first 3 pictures, and with them 120 ms between picture and sound; skip none to
    keep both together.
    """
    _, cache = vae.decode_next(motion[:, :, :WARM_UP_LATENTS], None)
    for index, latents in enumerate(blocks):
        pictures, cache = _decode(vae, latents[None], cache, latents_per_decode)
        yield pictures[:, :, num_skipped_pictures if index == 0 else 0 :]


def _decode(
    vae: StreamingVae, latents: Tensor, cache: VaeCache, latents_per_call: int
) -> tuple[Tensor, VaeCache]:
    """Decode a block, with less memory and more time when it goes in several calls."""
    pieces = []
    for part in torch.split(latents, latents_per_call, dim=2):
        pictures, cache = vae.decode_next(part, cache)
        pieces.append(pictures)
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)), cache

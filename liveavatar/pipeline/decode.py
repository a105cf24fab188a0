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
    decoder = _Decoder(vae, latents_per_decode)
    # In the same pieces as later, so that one compiled graph serves all.
    decoder.decode(motion[:, :, :1])
    decoder.decode(motion[:, :, 1:WARM_UP_LATENTS])
    for index, latents in enumerate(blocks):
        pictures = decoder.decode(latents[None])
        yield pictures[:, :, num_skipped_pictures if index == 0 else 0 :]


class _Decoder:
    """The autoencoder and its memory of the stream. Nobody else holds that memory, so there are never more than two."""

    def __init__(self, vae: StreamingVae, latents_per_call: int) -> None:
        self._vae, self._latents_per_call = vae, latents_per_call
        self._cache: VaeCache | None = None

    def decode(self, latents: Tensor) -> Tensor:
        """Return the pictures of the next latents; several calls take less memory and more time than one."""
        pieces = []
        for part in torch.split(latents, self._latents_per_call, dim=2):
            pictures, self._cache = self._vae.decode_next(part, self._cache)
            pieces.append(pictures)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)

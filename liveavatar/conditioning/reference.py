"""Latents of the reference picture: what every block is reminded of, and the motion before the video begins.

Before anything has moved, the motion is the picture standing still. Two ways to encode it were published. The
steady one treats the picture as the middle of a long still video; the plain one as its beginning, whose first
latent frame stands for a single picture frame.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from liveavatar.models.vae import FRAMES_PER_LATENT, StreamingVae

PLAIN_MOTION_FRAMES = 73  # 19 latent frames
STEADY_MOTION_FRAMES = 365  # 92 latent frames, of which the transformer packs the latest 19
# A latent frame sees so many before it. After them, a still video's latents no longer change.
_SETTLED_LATENTS = 29
_LATENTS_PER_CALL = 3  # encoded together: faster than one by one, at the memory of a block


@dataclass(frozen=True, kw_only=True)
class SinkLatents:
    """What the sink is computed from: reference [1, 16, 1, h, w] and motion [1, 16, T, h, w]."""

    reference: Tensor
    motion: Tensor


def plain_sink(
    vae: StreamingVae, pixels: Tensor, *, latents_per_call: int = _LATENTS_PER_CALL
) -> SinkLatents:
    """Encode pixels [3, H, W] as the beginning of a still video."""
    motion = encode_still(vae, pixels, num_frames=PLAIN_MOTION_FRAMES, latents_per_call=latents_per_call)
    return SinkLatents(reference=motion[:, :, :1], motion=motion)


class SinkCache:
    """The plain sinks of the latest portraits: the next voice for the same one begins without encoding it again."""

    def __init__(self, max_entries: int = 8) -> None:
        self._max_entries = max_entries
        self._sinks: OrderedDict[tuple[object, ...], SinkLatents] = OrderedDict()

    def plain_sink(self, vae: StreamingVae, pixels: Tensor, *, latents_per_call: int) -> SinkLatents:
        """Return `plain_sink` of pixels [3, H, W] on the host; encoded in the same pieces, it is kept bit by bit."""
        digest = hashlib.sha256(pixels.numpy().tobytes()).digest()
        key = (digest, pixels.shape, latents_per_call, vae.is_tiled)
        sink = self._sinks.pop(key, None) or plain_sink(vae, pixels, latents_per_call=latents_per_call)
        self._sinks[key] = sink
        while len(self._sinks) > self._max_entries:
            self._sinks.popitem(last=False)
        return sink


def steady_sink(vae: StreamingVae, pixels: Tensor) -> SinkLatents:
    """Encode pixels [3, H, W] as a long still video; the reference is its second latent frame."""
    motion = encode_still(vae, pixels, num_frames=STEADY_MOTION_FRAMES)
    return SinkLatents(reference=motion[:, :, 1:2], motion=motion)


def encode_still(
    vae: StreamingVae, pixels: Tensor, *, num_frames: int, latents_per_call: int = _LATENTS_PER_CALL
) -> Tensor:
    """Return the latents of `num_frames` = 1 + 4n repetitions of pixels [3, H, W], without encoding them all."""
    num_latents = 1 + (num_frames - 1) // FRAMES_PER_LATENT
    num_encoded = min(num_latents, _SETTLED_LATENTS)
    still = pixels[None, :, None].expand(-1, -1, 1 + (num_encoded - 1) * FRAMES_PER_LATENT, -1, -1)
    latents = vae.encode(still, frames_per_call=latents_per_call * FRAMES_PER_LATENT)
    rest = latents[:, :, -1:].expand(-1, -1, num_latents - num_encoded, -1, -1)
    return torch.cat([latents, rest], dim=2)

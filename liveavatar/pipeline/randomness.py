"""The random choices of a video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from liveavatar.models.s2v.config import CLIP_BLOCKS, FRAMES_PER_BLOCK, LATENT_CHANNELS
from liveavatar.models.s2v.rope import sink_jitter

# (block counted from the start of the video, denoising step) -> how far ahead the reference stands
SinkDistance = Callable[[int, int], int]
# clip -> noise [16, frames of a clip, h, w]
ClipNoise = Callable[[int], Tensor]


class Randomness(Protocol):
    """The random choices that a video depends on, the same on every rank."""

    def sink_distance(self, block: int, step: int) -> int:
        """Return how many latent frames the reference is kept ahead."""

    def clip_noise(self, clip: int, *, height: int, width: int, like: Tensor) -> Tensor:
        """Return a clip's noise [16, frames, height, width] on the device and in the dtype of `like`."""


class SeededRandomness:
    """The random choices of a video, each a function of the seed and of what it is for: order does not matter."""

    def __init__(self, seed: int, *, blocks_per_clip: int = CLIP_BLOCKS) -> None:
        self._seed = seed
        self._num_frames = blocks_per_clip * FRAMES_PER_BLOCK

    def sink_distance(self, block: int, step: int) -> int:
        """Return how many latent frames the reference is kept ahead, as in training drawn anew every time."""
        return sink_jitter(seed=self._seed, block_index=block, step=step)

    def clip_noise(self, clip: int, *, height: int, width: int, like: Tensor) -> Tensor:
        """Draw a clip's noise on the device and in the dtype of `like`; values differ between kinds of device."""
        generator = torch.Generator(like.device).manual_seed(self._seed + clip)
        shape = (LATENT_CHANNELS, self._num_frames, height, width)
        return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


class ContinuedRandomness:
    """The random choices of a video from `first_block` on, where its blocks are counted anew.

    No clip has the noise of one before, wherever the video was broken off.
    """

    def __init__(self, whole: Randomness, first_block: int, *, blocks_per_clip: int = CLIP_BLOCKS) -> None:
        self._whole, self._first_block = whole, first_block
        self._first_clip = -(-first_block // blocks_per_clip)

    def sink_distance(self, block: int, step: int) -> int:
        """Return how many latent frames the reference is kept ahead."""
        return self._whole.sink_distance(self._first_block + block, step)

    def clip_noise(self, clip: int, *, height: int, width: int, like: Tensor) -> Tensor:
        """Draw a clip's noise."""
        return self._whole.clip_noise(self._first_clip + clip, height=height, width=width, like=like)

"""Rotary position embedding over (frame, row, column), in real arithmetic.

The channels of a head form pairs (2m, 2m + 1). A pair turns by `position * frequency`; the first pairs follow the
frame, the next the row, the last the column. The published model rounds every cosine and sine to half precision
and was tuned with that, so the rounding is part of the model. Angles are computed in float64 from the position
itself: there is no table, hence no last position.

Shapes: L tokens, H heads, K channels of a head, P = K / 2 pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from liveavatar.models.s2v.config import MAX_SINK_DISTANCE, MIN_SINK_DISTANCE, REFERENCE_FRAME

BASE = 10_000.0
Positions = npt.NDArray[np.int64]


class Rotary(NamedTuple):
    """Rotation factors of a run of tokens, float32 holding half-precision values."""

    cos_LP: Tensor
    sin_LP: Tensor


def apply_rotary(x_LHK: Tensor, rotary: Rotary) -> Tensor:
    """Turn the channel pairs of every head; computes in float32 and returns the input's dtype."""
    cos_L1P1, sin_L1P1 = (factor[:, None, :, None] for factor in rotary)
    pairs = x_LHK.float().unflatten(-1, (-1, 2))
    # real * cos - imaginary * sin, imaginary * cos + real * sin: without cutting pairs apart, compiled code reads
    # whole rows.
    signs = torch.arange(-1, 2, 2, device=x_LHK.device)
    turned = pairs * cos_L1P1 + pairs.flip(-1) * (sin_L1P1 * signs)
    return turned.flatten(-2).to(x_LHK.dtype)


class GridRotary:
    """Rotation factors of whole latent frames: rows and columns are kept on the device, frames come per call."""

    def __init__(self, rows: Positions, columns: Positions, head_dim: int, device: torch.device) -> None:
        self._frame_channels = _frame_channels(head_dim)
        self._device = device
        row_factors = _factors(rows, _space_channels(head_dim), device)
        column_factors = _factors(columns, _space_channels(head_dim), device)
        self._space_SP = [
            torch.cat([row.repeat_interleave(len(columns), 0), column.repeat(len(rows), 1)], dim=-1)
            for row, column in zip(row_factors, column_factors, strict=True)
        ]

    def at(self, frames: Sequence[int] | Positions) -> Rotary:
        """Return the factors of every token of the frames at these temporal positions, of any size and sign."""
        parts = []
        temporal = _factors(np.asarray(frames, dtype=np.int64), self._frame_channels, self._device)
        for frame_FP, space_SP in zip(temporal, self._space_SP, strict=True):
            counts = (len(frame_FP), len(space_SP))
            wide = (frame_FP[:, None].expand(*counts, -1), space_SP[None].expand(*counts, -1))
            parts.append(torch.cat(wide, dim=-1).flatten(0, 1))
        return Rotary(*parts)


def concatenate(rotaries: list[Rotary]) -> Rotary:
    """Return the factors of several runs of tokens, one after the other."""
    return Rotary(
        torch.cat([rotary.cos_LP for rotary in rotaries]), torch.cat([rotary.sin_LP for rotary in rotaries])
    )


def reference_position(first_frame: int, jitter: int) -> int:
    """Return where the reference picture stands for a block: `jitter` frames ahead, never before its start."""
    if not MIN_SINK_DISTANCE <= jitter <= MAX_SINK_DISTANCE:
        raise ValueError(f"jitter {jitter} is outside {MIN_SINK_DISTANCE}..{MAX_SINK_DISTANCE}")
    return max(REFERENCE_FRAME, first_frame + jitter)


def sink_jitter(*, seed: int, block_index: int, step: int) -> int:
    """Draw the distance of the reference picture for one forward: uniform on 4..30, a function of its arguments.

    Every process that asks for the same block and step gets the same answer.
    """
    digest = hashlib.blake2b(f"{seed}/{block_index}/{step}".encode(), digest_size=8).digest()
    choices = MAX_SINK_DISTANCE - MIN_SINK_DISTANCE + 1
    return MIN_SINK_DISTANCE + int.from_bytes(digest, "big") % choices


def spread_positions(first: int, last: int, count: int) -> Positions:
    """Return `count` positions from first to last inclusive, evenly spread and cut to integers towards zero."""
    return np.trunc(np.linspace(first, last, count)).astype(np.int64)


def _frame_channels(head_dim: int) -> int:
    return head_dim - 2 * _space_channels(head_dim)


def _space_channels(head_dim: int) -> int:
    return 2 * (head_dim // 6)


def _factors(positions: Positions, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines `[positions, channels / 2]`, rounded to half precision."""
    frequencies = BASE ** (-np.arange(0, channels, 2, dtype=np.float64) / channels)
    angles = np.multiply.outer(positions.astype(np.float64), frequencies)
    rounded = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)]).astype(np.float16)).float()
    cosines, sines = rounded.to(device, non_blocking=True)
    return cosines, sines

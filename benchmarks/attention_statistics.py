"""Synthetic inputs of one self-attention layer with statistics that strain low precision.

    flat      logits vary by 1.1: most keys matter
    peaked    logits vary by 2.9: few keys matter
    outlier   three channels of every head are offset by ten times the spread of the others, one token in a hundred
              is three times as large, as in trained transformers

Shapes: L queries, T keys, H heads, K channels, D = H x K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveavatar.models.s2v.rope import GridRotary, Rotary, apply_rotary

Kind = Literal["flat", "peaked", "outlier"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EPS = 1e-6
_GAIN = {"flat": 1.02, "peaked": 1.65, "outlier": 1.02}
_GRID_ROWS, _GRID_COLUMNS = 24, 44  # tokens of a frame at 384x704


@dataclass(frozen=True, kw_only=True)
class AttentionInputs:
    """Projections as they leave the linear layers, the gains of their norms, and where the tokens stand."""

    q_LD: Tensor
    k_TD: Tensor
    v_TD: Tensor
    gain_q_D: Tensor
    gain_k_D: Tensor
    rotary_L: Rotary
    rotary_T: Rotary
    num_heads: int

    def rotated(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised and rotated queries `[L, H, K]` and keys `[T, H, K]`, and values, computed in float32."""
        q, k = (
            apply_rotary(
                F.rms_norm(x.float(), gain.shape, gain.float(), EPS).unflatten(-1, (self.num_heads, -1)), at
            )
            for x, gain, at in (
                (self.q_LD, self.gain_q_D, self.rotary_L),
                (self.k_TD, self.gain_k_D, self.rotary_T),
            )
        )
        return q.to(dtype), k.to(dtype), self.v_TD.unflatten(-1, (self.num_heads, -1)).to(dtype)

    def attend(self, dtype: torch.dtype, *, num_queries: int | None = None) -> Tensor:
        """Return the attention `[L, H, K]` of the first queries, head by head, in this dtype throughout."""
        q, k, v = (x.transpose(0, 1)[:, None] for x in self.rotated(dtype))
        heads = [
            F.scaled_dot_product_attention(q[head, None, :, :num_queries], k[head, None], v[head, None])[0, 0]
            for head in range(self.num_heads)
        ]
        return torch.stack(heads, dim=1)


def draw_inputs(
    kind: Kind,
    *,
    num_queries: int,
    num_keys: int,
    num_heads: int,
    head_dim: int = 128,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> AttentionInputs:
    """Return the same inputs for the same arguments, drawn on the device. Queries stand where the last keys do."""
    generator = torch.Generator(device).manual_seed(0)
    width = num_heads * head_dim

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    def projection(num_tokens: int) -> Tensor:
        x = randn(num_tokens, num_heads, head_dim)
        if kind == "outlier":
            offsets = randn(num_heads, head_dim)
            x += 4 * offsets * (offsets.argsort(dim=1).argsort(dim=1) < 3)
            is_large = randn(num_tokens, num_heads, 1) > 2.33  # one in a hundred
            x *= torch.where(is_large, 3.0, 1.0)
        return x.flatten(1).to(dtype)

    def gain() -> Tensor:
        return (_GAIN[kind] * torch.exp(0.2 * randn(width))).to(dtype)

    rotary_T = _rotary(num_keys, head_dim, torch.device(device))
    return AttentionInputs(
        q_LD=projection(num_queries),
        k_TD=projection(num_keys),
        v_TD=randn(num_keys, width).to(dtype),
        gain_q_D=gain(),
        gain_k_D=gain(),
        rotary_L=Rotary(*(factor[-num_queries:] for factor in rotary_T)),
        rotary_T=rotary_T,
        num_heads=num_heads,
    )


def _rotary(num_tokens: int, head_dim: int, device: torch.device) -> Rotary:
    """Return the factors of so many tokens, frame after frame."""
    grid = GridRotary(np.arange(_GRID_ROWS), np.arange(_GRID_COLUMNS), head_dim, device)
    frames = range(-(-num_tokens // (_GRID_ROWS * _GRID_COLUMNS)))
    return Rotary(*(factor[:num_tokens] for factor in grid.at(frames)))

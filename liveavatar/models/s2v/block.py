"""One transformer block and the output head.

Shapes: F latent frames, S tokens of a frame, D model width, B = 1. The sink counts as one frame of S = C tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar.models.s2v.attention import AttentionMemory, CrossAttention, KeyValues, SelfAttention
from liveavatar.models.s2v.audio_encoder import Float32Linear


class S2VBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward.

    Shift, scale and gate depend on the noise level of a frame. They stay one row per frame and reach the tokens by
    broadcasting. The residual stream is float32 in and between blocks, which brings a bfloat16 model a third closer
    to its float32 self; matrix products and attention run in the model's dtype.
    """

    def __init__(self, width: int, ffn_width: int, num_heads: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.self_attn = SelfAttention(width, num_heads, eps)
        self.norm3 = nn.LayerNorm(width, eps)
        self.cross_attn = CrossAttention(width, num_heads, eps)
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn_width), nn.GELU(approximate="tanh"), nn.Linear(ffn_width, width)
        )
        self.modulation = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def forward(self, x_FSD: Tensor, time_F6D: Tensor, text: KeyValues, memory: AttentionMemory) -> Tensor:
        """Return the tokens after the block; tokens and `time_F6D` are float32."""
        dtype, (frames, _, width) = self.norm3.weight.dtype, x_FSD.shape
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (
            (self.modulation.float() + time_F6D).unsqueeze(2).unbind(1)
        )
        normed = F.layer_norm(x_FSD, (width,), eps=self.eps) * (1 + scale_1) + shift_1
        attended = self.self_attn(normed.to(dtype).flatten(0, 1), memory).unflatten(0, (frames, -1))
        residual = x_FSD + attended.float() * gate_1

        norm3 = self.norm3
        normed = F.layer_norm(residual, (width,), norm3.weight.float(), norm3.bias.float(), self.eps)
        attended = self.cross_attn(normed.to(dtype).flatten(0, 1)[None], text)
        residual = residual + attended[0].unflatten(0, (frames, -1)).float()

        normed = F.layer_norm(residual, (width,), eps=self.eps) * (1 + scale_2) + shift_2
        return residual + self.ffn(normed.to(dtype)).float() * gate_2

    def encode_text(self, text_TD: Tensor) -> KeyValues:
        """Return the block's keys and values of the text, the same for every forward of a video."""
        return self.cross_attn.keys_values(text_TD[None])


class Head(nn.Module):
    """Tokens to patches, in float32."""

    def __init__(self, width: int, patch_values: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.head = Float32Linear(width, patch_values)
        self.modulation = nn.Parameter(torch.randn(1, 2, width) / width**0.5)

    def forward(self, x_FSD: Tensor, time_FD: Tensor) -> Tensor:
        """Return the values of every patch, `[F, S, patch_values]`, float32."""
        shift, scale = (self.modulation.float() + time_FD[:, None]).unsqueeze(2).unbind(1)
        normed = F.layer_norm(x_FSD, x_FSD.shape[-1:], eps=self.eps)
        output: Tensor = self.head(normed * (1 + scale) + shift)
        return output

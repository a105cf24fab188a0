"""Speech enters after some blocks: normalise under the summary token, attend to the local tokens, add.

Shapes: A actors, F latent frames of a block, S tokens of a frame, M audio tokens, D model width, H heads,
K channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar.models.s2v.attention import CrossAttention, KeyValues
from liveavatar.models.s2v.audio_encoder import AudioTokens


class AudioCondition(NamedTuple):
    """What one injection needs of a block's speech; the same at every denoising step."""

    context: KeyValues  # batch of A * F
    shift_AF1D: Tensor
    scale_AF1D: Tensor


class AdaptiveNorm(nn.Module):
    """The projection that turns the summary token into shift and scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, summary: Tensor) -> tuple[Tensor, Tensor]:
        """Return (shift, scale) of the width of the input."""
        shift, scale = self.linear(F.silu(summary)).chunk(2, dim=-1)
        return shift, scale


class AudioInjector(nn.Module):
    """One cross-attention and one adaptive norm per injected block; a device may hold those of some blocks only."""

    injector: nn.ModuleList | nn.ModuleDict
    injector_adain_layers: nn.ModuleList | nn.ModuleDict

    def __init__(self, width: int, num_heads: int, block_indices: Sequence[int], eps: float) -> None:
        super().__init__()
        self.block_indices = tuple(block_indices)
        self.injector = nn.ModuleList(CrossAttention(width, num_heads, eps) for _ in block_indices)
        self.injector_adain_layers = nn.ModuleList(AdaptiveNorm(width) for _ in block_indices)
        self._inject = inject  # replaced by its compiled form

    @property
    def _attention_after(self) -> dict[int, nn.Module]:
        return dict(zip(self.block_indices, self.injector.children(), strict=True))

    def compile_injection(self, **options: object) -> None:
        """Compile what runs at every step with `torch.compile(**options)`; all injections share one graph."""
        self._inject = torch.compile(inject, **options)  # type: ignore[call-overload]

    def prepare(self, tokens: AudioTokens, dtype: torch.dtype) -> dict[int, AudioCondition]:
        """Return the condition of each injected block, by block index."""
        summary_AF1D = tokens.global_AtD.to(dtype)[:, :, None]
        local_BMD = tokens.local_AtMD.to(dtype).flatten(0, 1)
        conditions = {}
        for index, attention, norm in zip(
            self.block_indices, self.injector.children(), self.injector_adain_layers.children(), strict=True
        ):
            assert isinstance(attention, CrossAttention)
            conditions[index] = AudioCondition(attention.keys_values(local_BMD), *norm(summary_AF1D))
        return conditions

    def forward(
        self, x_FSD: Tensor, block_index: int, condition: AudioCondition, actor_masks_AFS1: Tensor | None
    ) -> Tensor:
        """Return the tokens after a block with every actor's speech added to them. Tokens are float32.

        Raises ValueError for several actors without masks: every voice would move every face.
        """
        num_actors = condition.shift_AF1D.shape[0]
        if num_actors > 1 and actor_masks_AFS1 is None:
            raise ValueError(f"{num_actors} actors need masks that say where each of them is")
        attention = self._attention_after[block_index]
        return self._inject(attention, x_FSD, condition, actor_masks_AFS1)


def inject(
    attention: nn.Module, x_FSD: Tensor, condition: AudioCondition, actor_masks_AFS1: Tensor | None
) -> Tensor:
    """Add to the tokens what they hear, summed over the actors."""
    normalised = F.layer_norm(x_FSD, x_FSD.shape[-1:], eps=1e-5)
    modulated_AFSD = normalised * (1 + condition.scale_AF1D.float()) + condition.shift_AF1D.float()
    dtype = condition.context.k_BTHK.dtype
    residual_BSD = attention(modulated_AFSD.to(dtype).flatten(0, 1), condition.context)
    residual_AFSD: Tensor = residual_BSD.unflatten(0, modulated_AFSD.shape[:2])
    if actor_masks_AFS1 is not None:
        residual_AFSD = residual_AFSD * actor_masks_AFS1
    return x_FSD + residual_AFSD.sum(dim=0)

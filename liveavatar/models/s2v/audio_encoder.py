"""Speech features to audio tokens: causal convolutions that shrink time fourfold, to one step per latent frame.

Shapes: A actors, N layers of the speech model (25), E its width, T picture frames, t latent frames, D model width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar.models.s2v.config import AUDIO_HISTORY_FRAMES, MOTION_FRAMES

SPEECH_LAYERS = 25


class AudioTokens(NamedTuple):
    """What is heard during each latent frame."""

    global_AtD: Tensor  # one summary, used to modulate
    local_AtMD: Tensor  # M = 5 tokens, used as keys and values


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 whatever the dtype of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a float32 result."""
        return F.linear(x.float(), self.weight.float(), self.bias.float())


class CausalConv1d(nn.Module):
    """A convolution over time that sees no future: the first frame is repeated to its left. Computes in float32."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel_size=3, stride=stride)

    def forward(self, x_ATE: Tensor) -> Tensor:
        """Return frames in the layout of the input; time shrinks by the stride, rounded up."""
        padded = F.pad(x_ATE.transpose(1, 2), (2, 0), mode="replicate")
        weight, bias = self.conv.weight.float(), self.conv.bias
        assert bias is not None, "every convolution of the audio encoder has a bias"
        return F.conv1d(padded, weight, bias.float(), stride=self.conv.stride).transpose(1, 2)


class MotionEncoder(nn.Module):
    """The convolution stack: four local tokens and one summary share all but the first and the last layer."""

    def __init__(self, speech_width: int, width: int, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.conv1_local = CausalConv1d(speech_width, width // 4 * num_tokens, stride=1)
        self.conv1_global = CausalConv1d(speech_width, width // 4, stride=1)
        self.conv2 = CausalConv1d(width // 4, width // 2, stride=2)
        self.conv3 = CausalConv1d(width // 2, width, stride=2)
        self.final_linear = Float32Linear(width, width)
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x_ATE: Tensor) -> AudioTokens:
        """Return float32 tokens; t is T / 4, rounded up."""
        actors = x_ATE.shape[0]
        split = self.conv1_local(x_ATE).unflatten(-1, (self.num_tokens, -1))
        local = self._shrink(split.transpose(1, 2).flatten(0, 1))
        local_AtMD = local.unflatten(0, (actors, self.num_tokens)).transpose(1, 2)
        padding = self.padding_tokens.float().expand(actors, local_AtMD.shape[1], 1, -1)
        summary_AtD = self.final_linear(self._shrink(self.conv1_global(x_ATE)))
        return AudioTokens(summary_AtD, torch.cat([local_AtMD, padding], dim=2))

    def _shrink(self, x: Tensor) -> Tensor:
        x = self.conv2(_normalise(x))
        x = self.conv3(_normalise(x))
        return _normalise(x)


class CausalAudioEncoder(nn.Module):
    """Mix the layers of the speech model with learnt weights, then encode."""

    def __init__(self, speech_width: int, width: int, num_tokens: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((1, SPEECH_LAYERS, 1, 1), 0.01))
        self.encoder = MotionEncoder(speech_width, width, num_tokens)

    def forward(self, speech_ANET: Tensor) -> AudioTokens:
        """Return float32 tokens of every latent frame."""
        weights = F.silu(self.weights.float())
        mixed_AET = (speech_ANET.float() * weights).sum(dim=1) / weights.sum()
        tokens: AudioTokens = self.encoder(mixed_AET.transpose(1, 2))
        return tokens

    def encode_block(self, speech_ANET: Tensor) -> AudioTokens:
        """Return the tokens of a block's own latent frames; its first frame stands for everything before it."""
        history = speech_ANET[..., :1].expand(-1, -1, -1, AUDIO_HISTORY_FRAMES)
        tokens = self.forward(torch.cat([history, speech_ANET], dim=-1))
        return AudioTokens(tokens.global_AtD[:, MOTION_FRAMES:], tokens.local_AtMD[:, MOTION_FRAMES:])


def _normalise(x: Tensor) -> Tensor:
    return F.silu(F.layer_norm(x, x.shape[-1:], eps=1e-6))

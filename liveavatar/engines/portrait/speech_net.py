"""The net that hears mouth movements: log-mel at 100 Hz in, mouth channels and sound classes at 25 Hz out.

Tensor suffixes: B batch, C mel bands, F mel frames (100 per second), T video frames (25 per second).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from liveavatar.engines.portrait.mel import NUM_MELS
from liveavatar.engines.portrait.motion import MOUTH_CHANNELS
from liveavatar.engines.portrait.phones import SOUND_CLASSES

MEL_PER_FRAME = 4  # mel frames per video frame
LEFT_CONTEXT_FRAMES = 20  # video frames that reach an output: 0.69 s of the past by the dilations below
RIGHT_CONTEXT_FRAMES = 8  # and 0.23 s of the future, both rounded up
LOUD_RANGE = 4.5  # natural-log power: 20 dB below the loudest frames still counts as loud
MEL_SPREAD = 3.0  # divides the centred log-mel; about its standard deviation in speech


class ResidualConv(nn.Module):
    """Norm, dilated convolution over 3 steps, 1x1 convolution, added to the input."""

    def __init__(self, channels: int, dilation: int, *, causal: bool = False) -> None:
        super().__init__()
        self.padding = (2 * dilation, 0) if causal else (dilation, dilation)
        self.norm = nn.BatchNorm1d(channels)
        self.spread = nn.Conv1d(channels, channels, 3, dilation=dilation)
        self.mix = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        spread = self.spread(functional.pad(functional.gelu(self.norm(x)), self.padding))
        return x + cast(Tensor, self.mix(functional.gelu(spread)))


class SpeechNet(nn.Module):
    """0.87 M parameters at 160 channels. Four mel frames become one video frame halfway."""

    def __init__(self, channels: int = 160) -> None:
        super().__init__()
        self.entry = nn.Conv1d(NUM_MELS, channels, 5, padding=2)
        self.fine = nn.Sequential(*(ResidualConv(channels, dilation) for dilation in (1, 2, 4)))
        self.reduce = nn.Conv1d(channels, channels, MEL_PER_FRAME, stride=MEL_PER_FRAME)
        self.coarse = nn.Sequential(
            ResidualConv(channels, 1),
            ResidualConv(channels, 2),
            ResidualConv(channels, 2, causal=True),
            ResidualConv(channels, 4, causal=True),
        )
        self.mouth = nn.Conv1d(channels, len(MOUTH_CHANNELS), 1)
        self.classes = nn.Conv1d(channels, len(SOUND_CLASSES), 1)

    def forward(self, mel_BCF: Tensor) -> tuple[Tensor, Tensor]:
        """Return mouth channels (B, 8, T) and class logits (B, 28, T) for a normalised log-mel."""
        x = self.coarse(self.reduce(self.fine(self.entry(mel_BCF))))
        x = functional.gelu(x)
        return self.mouth(x), self.classes(x)


def loud_mean(mel_BCF: Tensor) -> Tensor:
    """Return the mean spectrum (B, C, 1) of the loud frames: what microphone and voice add to every sound."""
    level_B1F = mel_BCF.mean(dim=1, keepdim=True)
    loudest_B11 = torch.quantile(level_B1F, 0.98, dim=2, keepdim=True)
    loud_B1F = (level_B1F > loudest_B11 - LOUD_RANGE).to(mel_BCF.dtype)
    total = (mel_BCF * loud_B1F).sum(dim=2, keepdim=True)
    return total / loud_B1F.sum(dim=2, keepdim=True).clamp(min=1)


def normalise_mel(mel_BCF: Tensor, mean_BC1: Tensor) -> Tensor:
    """Centre a log-mel on the voice's own mean spectrum and bring it to the net's range."""
    return ((mel_BCF - mean_BC1) / MEL_SPREAD).clamp(-4, 3)


def warp_bands(mel_BCF: Tensor, factor: float) -> Tensor:
    """Read every mel band at `factor` times its place: undoes a vocal tract shorter (> 1) than the usual."""
    positions_C = (torch.arange(NUM_MELS, dtype=torch.float32) * factor).clamp(max=NUM_MELS - 1)
    below_C = positions_C.long().clamp(max=NUM_MELS - 2)
    part_C1 = (positions_C - below_C)[:, None]
    return mel_BCF[:, below_C] * (1 - part_C1) + mel_BCF[:, below_C + 1] * part_C1


def load_speech_net(path: Path) -> SpeechNet:
    """Load weights (half precision on disk) for inference on the CPU."""
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }
    net = SpeechNet(channels=state["entry.weight"].shape[0])
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)

"""The network that places 68 points on a face crop, and the names of those points.

Input: 128 x 128 BGR crops of a face, values -1..1. Output: point positions in crop pixels, how sure the net
is that the crop shows a face, and how blurred each point's heat map is. 1.47 million parameters, 3 MB in fp16.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from liveavatar.engines.portrait.one_thread import one_thread

CROP_PIXELS = 128
NUM_POINTS = 68
WEIGHTS_PATH = Path(__file__).parent / "weights" / "landmarks.safetensors"

# Where each part lies in the 68 points. Left and right are those of the picture; curves run left to right.
MOUTH_LEFT, MOUTH_RIGHT = 0, 1
UPPER_LIP_OUTER = slice(2, 9)
UPPER_LIP_INNER = slice(9, 16)
LOWER_LIP_INNER = slice(16, 23)
LOWER_LIP_OUTER = slice(23, 30)
LEFT_EYE, RIGHT_EYE = 30, 43  # each: left corner, right corner, 5 upper lid, 5 lower lid, iris
LEFT_BROW, RIGHT_BROW = slice(56, 59), slice(59, 62)
NOSE_TIP, NOSE_BASE, CHIN, JAW_LEFT, JAW_RIGHT, FOREHEAD = range(62, 68)


def _mirror_order() -> list[int]:
    """Return, for each point, the index of the point that takes its place in a mirrored picture."""
    order = list(range(NUM_POINTS))

    def swap(first: slice, second: slice) -> None:
        there, back = list(range(NUM_POINTS))[first], list(range(NUM_POINTS))[second]
        order[first], order[second] = back[::-1], there[::-1]

    order[MOUTH_LEFT], order[MOUTH_RIGHT] = MOUTH_RIGHT, MOUTH_LEFT
    for curve in (UPPER_LIP_OUTER, UPPER_LIP_INNER, LOWER_LIP_INNER, LOWER_LIP_OUTER):
        swap(curve, curve)
    for start, stop in ((0, 2), (2, 7), (7, 12), (12, 13)):
        swap(slice(LEFT_EYE + start, LEFT_EYE + stop), slice(RIGHT_EYE + start, RIGHT_EYE + stop))
    swap(LEFT_BROW, RIGHT_BROW)
    order[JAW_LEFT], order[JAW_RIGHT] = JAW_RIGHT, JAW_LEFT
    return order


MIRROR_ORDER = _mirror_order()


class ConvBlock(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(
        self, channels_in: int, channels_out: int, *, stride: int = 1, kernel: int = 3, groups: int = 1
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.norm(self.conv(x)))


class InvertedResidual(nn.Module):
    """Widen by two, mix 5 x 5 neighbourhoods per channel, narrow again, add to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.widen = ConvBlock(channels, 2 * channels, kernel=1)
        self.mix = ConvBlock(2 * channels, 2 * channels, kernel=5, groups=2 * channels)
        self.narrow = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.norm(self.narrow(self.mix(self.widen(x))))
        return x + change


def _stage(channels_in: int, channels_out: int, num_residuals: int) -> nn.Sequential:
    """Halve the resolution, then refine."""
    residuals = [InvertedResidual(channels_out) for _ in range(num_residuals)]
    return nn.Sequential(ConvBlock(channels_in, channels_out, stride=2), *residuals)


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class LandmarkNet(nn.Module):
    """An hourglass: down to 4 x 4 for the overview, back up to 32 x 32 heat maps, one per point."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvBlock(3, 24, stride=2), ConvBlock(24, 40), InvertedResidual(40)
        )  # 64 x 64
        self.down_32 = _stage(40, 64, 2)
        self.down_16 = _stage(64, 96, 3)
        self.down_8 = _stage(96, 160, 3)
        self.down_4 = _stage(160, 192, 2)
        self.face_head = nn.Linear(192, 1)
        self.up_8 = nn.Conv2d(192, 160, 1)
        self.up_16 = ConvBlock(160, 96, kernel=1)
        self.fuse_16 = InvertedResidual(96)
        self.up_32 = ConvBlock(96, 64, kernel=1)
        self.fuse_32 = nn.Sequential(InvertedResidual(64), InvertedResidual(64))
        self.heat_head = nn.Conv2d(64, NUM_POINTS, 1)

    def face_logits(self, crops: Tensor) -> Tensor:
        """Return how sure the net is of a face (N,), at half the work of placing points."""
        overview = self.down_4(self.down_8(self.down_16(self.down_32(self.stem(crops)))))
        return self.face_head(overview.mean((2, 3)))[:, 0]  # type: ignore[no-any-return]

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return points (N, 68, 2) in crop pixels, face logits (N,), heat map variances (N, 68), pixels^2."""
        at_32 = self.down_32(self.stem(crops))
        at_16 = self.down_16(at_32)
        at_8 = self.down_8(at_16)
        at_4 = self.down_4(at_8)
        face_logits = self.face_head(at_4.mean((2, 3)))[:, 0]
        at_8 = at_8 + _double(self.up_8(at_4))
        at_16 = self.fuse_16(at_16 + _double(self.up_16(at_8)))
        at_32 = self.fuse_32(at_32 + _double(self.up_32(at_16)))
        points, variances = _heat_centres(self.heat_head(at_32).float())
        return points, face_logits, variances


def _heat_centres(heat: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centre of mass and the variance of each heat map (N, P, side, side), in crop pixels."""
    side = heat.shape[-1]
    weight = heat.flatten(2).softmax(-1).view(heat.shape)
    position = (torch.arange(side, device=heat.device) + 0.5) * CROP_PIXELS / side - 0.5
    along_x, along_y = weight.sum(2), weight.sum(3)
    x, y = (along_x * position).sum(-1), (along_y * position).sum(-1)
    variance = (along_x * position**2).sum(-1) - x**2 + (along_y * position**2).sum(-1) - y**2
    return torch.stack([x, y], -1), variance


def load_landmark_net(path: Path = WEIGHTS_PATH) -> LandmarkNet:
    """Load the net for inference on the CPU. The file holds fp16 values; the arithmetic is fp32."""
    net = LandmarkNet()
    stored = load_file(path)
    wanted = net.state_dict()
    net.load_state_dict({name: value.to(wanted[name].dtype) for name, value in stored.items()})
    return net.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _net_input(crops: NDArray[np.uint8]) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
@one_thread()
def face_probability(net: LandmarkNet, crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the probability (N,), 0..1, that each of `crops` (N, 128, 128, 3, BGR) shows a face."""
    return net.face_logits(_net_input(crops)).sigmoid().double().numpy()


@torch.inference_mode()
@one_thread()
def place_points(
    net: LandmarkNet, crops: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Place the points on `crops` (N, 128, 128, 3, BGR), each seen as it is and mirrored.

    Returns points (N, 68, 2) in crop pixels, face probability (N,) in 0..1, and how far the two views
    disagree (N,), the mean over the points in crop pixels.
    """
    x = _net_input(crops)
    count = len(x)
    points, logits, _ = net(torch.cat([x, x.flip(3)]))
    mirrored = points[count:, MIRROR_ORDER]
    mirrored = torch.stack([CROP_PIXELS - 1 - mirrored[..., 0], mirrored[..., 1]], -1)
    disagreement = (points[:count] - mirrored).norm(dim=-1).mean(1)
    probability = ((logits[:count] + logits[count:]) / 2).sigmoid()
    mean = (points[:count] + mirrored) / 2
    return mean.double().numpy(), probability.double().numpy(), disagreement.double().numpy()

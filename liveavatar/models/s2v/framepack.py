"""Motion tokens: 19 past latent frames packed at three resolutions, finest for the newest.

The newest frame is cut into 2x2 patches, the two before it into patches of 2 frames x 4x4, the sixteen before those
into patches of 4 frames x 8x8. Tokens stand newest first, at temporal positions before the video's start.

Shapes: C latent channels, T frames, L tokens, D model width, V values of one patch.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveavatar.models.s2v.config import LATENT_CHANNELS, MOTION_FRAMES, PATCH, TokenGrid
from liveavatar.models.s2v.rope import GridRotary, Rotary, concatenate, spread_positions


class PatchConv3d(nn.Conv3d):
    """A convolution whose stride is its kernel, computed as the matrix product it is.

    Rows, columns and frames that do not fill a patch are left out. The output is `[L, D]`, frame varying slowest.
    """

    def __init__(self, channels: int, width: int, patch: tuple[int, int, int]) -> None:
        super().__init__(channels, width, kernel_size=patch, stride=patch)

    def forward(self, latents_CTHW: Tensor) -> Tensor:
        """Return one token per patch."""
        time, height, width = self.kernel_size
        _, T, H, W = latents_CTHW.shape
        whole = latents_CTHW[:, : T // time * time, : H // height * height, : W // width * width]
        patches = whole.unflatten(3, (-1, width)).unflatten(2, (-1, height)).unflatten(1, (-1, time))
        # channels, (frames, time), (rows, height), (columns, width) -> tokens, values of a patch
        patches_LV = patches.permute(1, 3, 5, 0, 2, 4, 6).flatten(3).flatten(0, 2)
        return F.linear(patches_LV.to(self.weight.dtype), self.weight.flatten(1), self.bias)


class FramePacker(nn.Module):
    """Turn the latents of past motion into tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = PatchConv3d(LATENT_CHANNELS, width, (1, PATCH, PATCH))
        self.proj_2x = PatchConv3d(LATENT_CHANNELS, width, (2, 2 * PATCH, 2 * PATCH))
        self.proj_4x = PatchConv3d(LATENT_CHANNELS, width, (4, 4 * PATCH, 4 * PATCH))

    def forward(self, motion_CTHW: Tensor) -> Tensor:
        """Return tokens `[L, D]` of the last 19 frames; missing older frames count as zeros."""
        missing = max(0, MOTION_FRAMES - motion_CTHW.shape[1])
        padded = F.pad(motion_CTHW[:, -MOTION_FRAMES:], (0, 0, 0, 0, missing, 0))
        oldest, older, newest = padded.split((16, 2, 1), dim=1)
        return torch.cat([self.proj(newest), self.proj_2x(older), self.proj_4x(oldest)])


def motion_rotary(grid: TokenGrid, head_dim: int, device: torch.device) -> Rotary:
    """Return the rotation factors of the motion tokens, in the order FramePacker emits them."""
    groups = []
    for frames, shrink in ((np.array([-1]), 1), (np.array([-3]), 2), (-spread_positions(19, 4, 4), 4)):
        rows = spread_positions(0, grid.rows - 1, grid.latent_height // (PATCH * shrink))
        columns = spread_positions(0, grid.columns - 1, grid.latent_width // (PATCH * shrink))
        groups.append(GridRotary(rows, columns, head_dim, device).at(frames))
    return concatenate(groups)

"""Pictures of one size brought to another without moving the face."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from liveavatar.pipeline.delivery import Pictures


def fit_into(pictures: Pictures, backdrop: Pictures) -> Pictures:
    """Return pictures [N, h, w, 3] in the size of `backdrop` [H, W, 3], which shows where they do not reach.

    A portrait fills the shorter side of every size and is centred in the other (`conditioning.image`). So everything
    keeps its place when shorter sides are made equal; what a narrower picture has not got is the still portrait.
    """
    if pictures.shape[1:] == backdrop.shape:
        return pictures
    height, width = backdrop.shape[:2]
    factor = min(height, width) / min(pictures.shape[1:3])
    scaled = _scaled(pictures, factor)
    fitted = np.repeat(backdrop[None], len(pictures), axis=0)
    rows, columns = _overlap(height, scaled.shape[1]), _overlap(width, scaled.shape[2])
    fitted[:, rows[0], columns[0]] = scaled[:, rows[1], columns[1]]
    return fitted


def _scaled(pictures: Pictures, factor: float) -> Pictures:
    if factor == 1:
        return pictures
    height, width = (round(side * factor) for side in pictures.shape[1:3])
    levels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    resized = F.interpolate(levels, (height, width), mode="bilinear", antialias=True)
    array: Pictures = resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return array


def _overlap(target: int, source: int) -> tuple[slice, slice]:
    """Return where the middle of `source` pixels goes in `target` pixels, and which of them it is."""
    length = min(target, source)
    first, skipped = (target - length) // 2, (source - length) // 2
    return slice(first, first + length), slice(skipped, skipped + length)

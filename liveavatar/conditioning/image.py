"""Reference picture -> pixels for the autoencoder: how it is fitted into the size of the video."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from liveavatar.core.area_sizes import size_for_area

__all__ = ["prepare_picture", "size_for_area"]


def prepare_picture(picture: Image.Image, height: int, width: int) -> Tensor:
    """Return pixels [3, height, width] in -1..1: shorter side to the shorter of both sizes, centre cut out.

    Where the resized picture does not reach the border, the border is black.
    """
    resized = _resize_shorter_side(picture.convert("RGB"), min(height, width))
    left, top = _centre_offset(resized.width, width), _centre_offset(resized.height, height)
    # Pillow fills what lies outside of the picture with black.
    cropped = resized.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float() / 255 * 2 - 1


def _resize_shorter_side(picture: Image.Image, length: int) -> Image.Image:
    shorter, longer = sorted(picture.size)
    if shorter == length:
        return picture
    other = int(length * longer / shorter)
    size = (length, other) if picture.width <= picture.height else (other, length)
    return picture.resize(size, Image.Resampling.BILINEAR)


def _centre_offset(available: int, wanted: int) -> int:
    """Return where the cut begins; negative where the border is to be filled."""
    if available < wanted:
        return -((wanted - available) // 2)
    return round((available - wanted) / 2)

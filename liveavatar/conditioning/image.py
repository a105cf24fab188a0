"""Reference picture -> pixels for the autoencoder: which size, and how the picture is fitted into it."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIZE_STEP = 64  # sides are multiples of it, so that every motion token grid comes out even
_NUM_SCALES = 100
_SMALLEST_SCALE = 0.1


def size_for_area(height: int, width: int, max_area: int, *, step: int = SIZE_STEP) -> tuple[int, int]:
    """Return the (height, width) of the video for a picture of this size: at most `max_area` pixels.

    A picture that fits is only rounded up to `step`. A larger one is shrunk in small steps until it fits with
    its sides rounded up. This is the rule the model was trained with, its odd lower bound included.
    """
    largest, smallest = _scale_range(height, width, max_area, step)
    for index in range(_NUM_SCALES):
        scale = largest - (largest - smallest) * index / _NUM_SCALES
        fitted = _round_up(int(height * scale), step), _round_up(int(width * scale), step)
        if fitted[0] * fitted[1] <= max_area:
            return fitted
    aspect = width / height
    fitted = _round_down(math.sqrt(max_area / aspect), step), _round_down(math.sqrt(max_area * aspect), step)
    if fitted[0] >= height or fitted[1] >= width:
        return _round_down(height, step), _round_down(width, step)
    return fitted


def prepare_picture(picture: Image.Image, height: int, width: int) -> Tensor:
    """Return pixels [3, height, width] in -1..1: shorter side to the shorter of both sizes, centre cut out.

    Where the resized picture does not reach the border, the border is black.
    """
    resized = _resize_shorter_side(picture.convert("RGB"), min(height, width))
    left, top = _centre_offset(resized.width, width), _centre_offset(resized.height, height)
    # Pillow fills what lies outside of the picture with black.
    cropped = resized.crop((left, top, left + width, top + height))
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1).float() / 255 * 2 - 1


def _scale_range(height: int, width: int, max_area: int, step: int) -> tuple[float, float]:
    """Return the largest and smallest factor to try."""
    if height * width <= max_area:
        return 1.0, _SMALLEST_SCALE
    # Rounding up adds at most step - 1 to each side. The exact smallest factor has 4ac under the root; with 2ac,
    # as the model was trained, it is a little larger.
    margin = step - 1
    a, b, c = height * width, margin * (height + width), margin**2 - max_area
    return math.sqrt(max_area / a), (-b + math.sqrt(b**2 - 2 * a * c)) / (2 * a)


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


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step


def _round_down(length: float, step: int) -> int:
    return int(length // step * step)

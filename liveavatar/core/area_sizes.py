"""Which picture sizes the s2v model makes: the largest of at most an area, with sides that are multiples of 64."""

from __future__ import annotations

import math

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


def _scale_range(height: int, width: int, max_area: int, step: int) -> tuple[float, float]:
    """Return the largest and smallest factor to try."""
    if height * width <= max_area:
        return 1.0, _SMALLEST_SCALE
    # Rounding up adds at most step - 1 to each side. The exact smallest factor has 4ac under the root; with 2ac,
    # as the model was trained, it is a little larger.
    margin = step - 1
    a, b, c = height * width, margin * (height + width), margin**2 - max_area
    return math.sqrt(max_area / a), (-b + math.sqrt(b**2 - 2 * a * c)) / (2 * a)


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step


def _round_down(length: float, step: int) -> int:
    return int(length // step * step)

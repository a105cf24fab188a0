"""Fill in what a head hides of its background, so that a moving head uncovers something believable.

Only a narrow band along the outline ever shows. Its colours run on smoothly from those outside; the grain on them is
a mirror image of the background's own, so that leaves, walls and film grain do not end in a blur.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from liveavatar.engines.portrait.geometry import Floats, Picture

Mask = NDArray[np.bool_]

STRAY_REACH = 0.14  # how far outside the outline stray hair and soft edges are looked for, in head radii
STRAY_WIDTH = 0.07  # how thick they can be, in head radii
STRAY_LEVELS = 3  # colour levels by which they leave the range of the background's colours around them
NEIGHBOURHOOD = 0.30  # half the side of the square in which these are looked up, in head radii
GRAIN_SIZE = 0.08  # what is finer than this is grain, in head radii
MOST_GRAIN = 3.0  # times what is usual near it; what stands out more is an object, and must not come twice
GRAIN_NEIGHBOURHOOD = 0.8  # half the side of the square that says what is usual, in head radii
OUTLINE_SMOOTHING = 0.05  # the mirror's edge is so much smoother than the outline, in head radii


def backdrop_behind(picture: Picture, hidden: Mask, head_radius: float) -> Picture:
    """The picture without its head: (rows, columns, 3).

    `picture` is (rows, columns, 3), `hidden` (rows, columns) says where the head is, `head_radius` is in pixels.
    """
    hidden = hidden | _strays(picture, hidden, head_radius)
    smooth = fill_smoothly(picture, ~hidden)
    mirrored = _mirrored_at_outline(_grain(smooth, head_radius), hidden, head_radius)
    backdrop = picture.copy()
    backdrop[hidden] = np.clip(smooth[hidden] + mirrored[hidden] + 0.5, 0, 255).astype(np.uint8)
    return backdrop


def _strays(picture: Picture, hidden: Mask, head_radius: float) -> Mask:
    """Thin things near the outline that have the head's colours, not the background's: hair, a soft edge.

    Left in the background they would stay behind as a ghost when the head moves.
    """
    picture = np.asarray(
        cv2.cvtColor(picture, cv2.COLOR_BGR2LAB), np.uint8
    )  # tells hues apart by their range
    distance = cv2.distanceTransform((~hidden).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    near = (distance < STRAY_REACH * head_radius) & ~hidden
    inside = cv2.erode(hidden.astype(np.uint8), _square(STRAY_WIDTH * head_radius)) > 0
    darkest, brightest = _range_around(picture, ~near & ~hidden, NEIGHBOURHOOD * head_radius)
    head_darkest, head_brightest = _range_around(picture, inside, NEIGHBOURHOOD * head_radius)
    unlike_background = _excess(picture, darkest, brightest) > STRAY_LEVELS
    either = cv2.min(darkest, head_darkest), cv2.max(brightest, head_brightest)
    stray = near & unlike_background & (_excess(picture, *either) == 0)
    # What is wide is no stray but a part of the head that was missed: cutting it would show.
    depth = cv2.distanceTransform(stray.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    count, pieces = cv2.connectedComponents(stray.astype(np.uint8))
    is_thin = np.ones(count, bool)
    is_thin[pieces[depth > STRAY_WIDTH / 2 * head_radius]] = False
    return np.asarray(stray & is_thin[pieces])


def _range_around(picture: Picture, known: Mask, reach: float) -> tuple[Picture, Picture]:
    """The darkest and the brightest known value around each pixel, by channel; 255 and 0 where none is known."""
    rows, columns = known.shape
    around = _square(reach / 4)

    def looked_up(values: NDArray[np.integer], extreme: Callable[..., Any]) -> Picture:
        coarse = extreme(extreme(values.astype(np.uint8), _square(2))[::4, ::4], around)
        return np.asarray(cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_NEAREST), np.uint8)

    darkest = looked_up(np.where(known[..., None], picture, 255), cv2.erode)
    return darkest, looked_up(np.where(known[..., None], picture, 0), cv2.dilate)


def _excess(picture: Picture, darkest: MatLike, brightest: MatLike) -> NDArray[np.integer]:
    """By how many levels each pixel leaves the range, in the channel in which it does so most: (rows, columns)."""
    beyond = cv2.max(cv2.subtract(picture, brightest), cv2.subtract(darkest, picture))
    return np.asarray(largest_channel(beyond))


def largest_channel(picture: MatLike) -> MatLike:
    """The largest of the three channels of each pixel: (rows, columns). Much faster than numpy along the last axis."""
    first, second, third = cv2.split(picture)
    return cv2.max(cv2.max(first, second), third)


def _square(reach: float) -> Picture:
    side = 2 * max(1, round(reach)) + 1
    return np.ones((side, side), np.uint8)


def _grain(picture: Floats, head_radius: float) -> Floats:
    """The finest details of a picture, without the edges of objects."""
    grain = picture - cv2.blur(picture, _square(GRAIN_SIZE * head_radius).shape)
    small = np.clip(np.abs(grain[::4, ::4]).max(axis=2), 0, 255).astype(np.uint8)
    usual = cv2.medianBlur(small, 2 * max(1, round(0.25 * GRAIN_NEIGHBOURHOOD * head_radius)) + 1)
    most = MOST_GRAIN * cv2.resize(usual, (grain.shape[1], grain.shape[0])).astype(np.float32)[..., None]
    return np.asarray(np.clip(grain, -most, most), np.float32)


def _mirrored_at_outline(picture: Floats, hidden: Mask, head_radius: float) -> Floats:
    """Every pixel shows what lies as far outside the outline as it lies inside."""
    sigma = max(1.0, OUTLINE_SMOOTHING * head_radius)
    smooth_outline = cv2.GaussianBlur(hidden.astype(np.float32), (0, 0), sigma) > 0.1
    depth = cv2.distanceTransform(smooth_outline.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    depth = cv2.GaussianBlur(depth, (0, 0), sigma)
    slope_y, slope_x = np.gradient(depth)
    y, x = np.mgrid[: depth.shape[0], : depth.shape[1]].astype(np.float32)
    return np.asarray(
        cv2.remap(
            picture,
            (x - 2 * depth * slope_x).astype(np.float32),
            (y - 2 * depth * slope_y).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        ),
        np.float32,
    )


def fill_smoothly(picture: Picture, known: Mask) -> Floats:
    """Fill the unknown pixels with the colours around them, far ones blurred; known pixels stay.

    Returns (rows, columns, 3) as float32. With nothing known the mean colour is returned.
    """
    colours = picture.astype(np.float32)
    if not known.any():
        return np.broadcast_to(colours.mean(axis=(0, 1)), colours.shape).astype(np.float32)
    weight = known.astype(np.float32)
    return _fill_level(colours * weight[..., None], weight)


def _fill_level(weighted: Floats, weight: Floats) -> Floats:
    """One level of a pyramid: known where `weight` is 1, else taken from the next coarser level."""
    rows, columns = weight.shape
    own = weighted / np.maximum(weight, 1e-4)[..., None]
    if min(rows, columns) <= 2 or float(weight.min()) > 0.999:
        total = max(float(weight.sum()), 1e-4)
        mean = weighted.sum(axis=(0, 1)) / total
        share = np.minimum(weight, 1)[..., None]
        return np.asarray(own * share + mean * (1 - share), np.float32)
    half = (max(1, (columns + 1) // 2), max(1, (rows + 1) // 2))
    coarse_weighted = np.asarray(cv2.resize(weighted, half, interpolation=cv2.INTER_AREA), np.float32)
    coarse_weight = np.asarray(cv2.resize(weight, half, interpolation=cv2.INTER_AREA), np.float32)
    boost = np.minimum(1.0, 2.0 * coarse_weight) / np.maximum(coarse_weight, 1e-4)
    coarse = _fill_level(coarse_weighted * boost[..., None], coarse_weight * boost)
    grown = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_LINEAR)
    share = np.minimum(weight, 1)[..., None]
    return np.asarray(own * share + grown * (1 - share), np.float32)

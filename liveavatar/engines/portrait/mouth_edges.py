"""Correct the inner edges of the lips by what the picture shows.

Face points are right to a few percent of the mouth's width. A lip is a band of skin that is redder than teeth and
lighter than the dark of the mouth; this file looks for that border near the measured curve, in a rectified patch
whose rows run along v. Bare lower teeth, which point finders take for the lip, are left outside this way.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.geometry import CornerFrame, Doubles, Floats, Picture, TabulatedCurve, floats

PATCH_COLUMNS = 81  # one every 0.025 half widths: a pixel of a mouth 80 pixels wide
PATCH_STEP = 0.0125  # rows of the patch, in half widths
WINDOW_ROWS = 5  # 0.06 half widths on either side of an edge are compared: the thinnest lip
SEARCH_BASE = 0.09  # how far the border may lie from the measured curve, in half widths ...
SEARCH_PER_GAP = 0.10  # ... plus this part of the gap: open mouths are measured less well
REDNESS_SCALE = 7.0  # units of Lab a*: a typical step between lip and teeth
LIGHTNESS_SCALE = 30.0  # units of Lab L (0..255): a typical step between lip and the dark of the mouth
DISTANCE_PENALTY = 0.9  # cost of an edge at the search limit; a clear border gains 1 to 3
ROUGHNESS_PENALTY = 1.2  # cost of one row of difference between neighbouring columns
CONTOUR_POINTS = 96  # around a wide-open mouth
CONTOUR_SCALES = np.linspace(0.72, 1.40, 69)  # candidates, against the measured contour
CONTOUR_ROUGHNESS = 0.15  # cost of one candidate of difference between neighbouring rays
CONTOUR_WINDOW = 6  # candidates on either side that are compared
DARK_OUTSIDE_PENALTY = 3.0  # cost when all of the surroundings of the rim are as dark as the mouth's depth
CLOSED_GAP, OPEN_GAP = 0.10, 0.12  # parted less than the first: closed; more than the second: open
MIDDLE_REACH = 0.6  # |u| up to which the parting counts: a highlight at one side must not part the lips
SMOOTHING_COLUMNS = 2.0  # Gaussian sigma; lips have no corners but their ends


def refine_inner_lips(
    picture: Picture, frame: CornerFrame, upper: Floats, lower: Floats
) -> tuple[Floats, Floats]:
    """Return the inner lip edges (values of tabulated curves) moved to the nearest clear borders.

    Lips that touch in the picture share one edge, the dark line between them.
    """
    u = np.linspace(-1.0, 1.0, PATCH_COLUMNS, dtype=np.float32)
    upper_start, lower_start = (TabulatedCurve(values=edge)(u) for edge in (upper, lower))
    gap = float((lower_start - upper_start).max())
    reach = SEARCH_BASE + SEARCH_PER_GAP * gap
    v = np.arange(
        float(upper_start.min()) - reach - 0.1, float(lower_start.max()) + reach + 0.1, PATCH_STEP
    ).astype(np.float32)
    redness, lightness = _rectified_lab(picture, frame, u, v)
    lower_gain = _border_strength(redness, lightness)
    upper_gain = _border_strength(redness[::-1], lightness[::-1])[::-1]
    upper_found = _best_path(upper_gain, v, upper_start, reach)
    lower_found = _best_path(lower_gain, v, lower_start, reach)
    gap_found = float(np.median((lower_found - upper_found)[np.abs(u) < MIDDLE_REACH]))
    middle = _best_path(
        -_smooth_rows(lightness) / LIGHTNESS_SCALE, v, 0.5 * (upper_found + lower_found), SEARCH_BASE / 2
    )
    openness = np.float32(np.clip((gap_found - CLOSED_GAP) / (OPEN_GAP - CLOSED_GAP), 0.0, 1.0))
    upper_found = np.minimum(middle + (upper_found - middle) * openness, middle)
    lower_found = np.maximum(middle + (lower_found - middle) * openness, middle)
    return _as_curve(u, upper_found), _as_curve(u, lower_found)


def trace_open_mouth(picture: Picture, frame: CornerFrame, upper: Floats, lower: Floats) -> Doubles:
    """Find the rim of a wide-open mouth: local points (CONTOUR_POINTS, 2), from the left corner over the upper lip.

    Open mouths are rounder than lip curves between two corners can be: below the corners they may be wider. So the
    rim is searched along rays from the middle of the opening.
    """
    half = CONTOUR_POINTS // 2
    along = -np.cos(np.linspace(0.0, np.pi, half + 1)).astype(np.float32)
    top, bottom = TabulatedCurve(values=upper)(along), TabulatedCurve(values=lower)(along)
    rim = np.concatenate([np.stack([along, top], -1)[:-1], np.stack([along, bottom], -1)[:0:-1]])
    centre = np.array([0.0, 0.5 * float(top.min() + bottom.max())])
    rays = centre + CONTOUR_SCALES[:, None, None] * (rim - centre)
    redness, lightness = _lab_at(picture, frame, rays[..., 0], rays[..., 1])
    gain = _border_strength(redness, lightness, CONTOUR_WINDOW)
    gain -= 0.5 * DISTANCE_PENALTY * floats(((CONTOUR_SCALES - 1.0) / 0.3) ** 2)[:, None]
    gain -= DARK_OUTSIDE_PENALTY * _dark_outside(lightness)
    around = np.tile(gain, (1, 2))  # twice around: the second half of the path knows no seam
    chosen = _cheapest_path(around, CONTOUR_ROUGHNESS)[half : half + CONTOUR_POINTS]
    scale = np.roll(CONTOUR_SCALES[chosen], half)
    padded = np.concatenate([scale[-8:], scale, scale[:8]]).reshape(1, -1)
    smooth = cv2.GaussianBlur(padded, (0, 0), SMOOTHING_COLUMNS)[0, 8:-8].astype(np.float64)
    return np.asarray(centre + smooth[:, None] * (rim - centre), np.float64)


def _dark_outside(lightness: Floats) -> Floats:
    """Part of the next quarter radius outwards that is as dark as the depth of the mouth, per candidate."""
    inside, outside = lightness[CONTOUR_SCALES < 0.95], lightness[CONTOUR_SCALES > 1.2]
    depth, surroundings = float(np.percentile(inside, 15)), float(np.median(outside))
    is_dark = (lightness < depth + 0.3 * max(surroundings - depth, 0.0)).astype(np.float32)
    window = round(0.25 / float(np.diff(CONTOUR_SCALES).mean()))
    sums = np.cumsum(np.pad(is_dark, ((1, window), (0, 0)), mode="edge"), axis=0)
    return np.asarray((sums[window:] - sums[:-window])[: len(lightness)] / window, np.float32)


def _rectified_lab(picture: Picture, frame: CornerFrame, u: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Lab a* and L of the picture on the local grid `v` x `u`."""
    grid_u, grid_v = np.meshgrid(u, v)
    return _lab_at(picture, frame, grid_u, grid_v)


def _lab_at(
    picture: Picture, frame: CornerFrame, u: NDArray[np.floating], v: NDArray[np.floating]
) -> tuple[Floats, Floats]:
    """Lab a* and L of the picture at local points, slightly smoothed along both axes of the arrays."""
    x, y = frame.to_picture(u.astype(np.float32), v.astype(np.float32))
    patch = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lab = cv2.GaussianBlur(cv2.cvtColor(patch, cv2.COLOR_BGR2LAB), (3, 3), 0).astype(np.float32)
    return lab[..., 1], lab[..., 0]


def _smooth_rows(values: Floats) -> Floats:
    return np.asarray(cv2.blur(values, (3, WINDOW_ROWS)), np.float32)


def _border_strength(redness: Floats, lightness: Floats, window_rows: int = WINDOW_ROWS) -> Floats:
    """How much every row looks like the edge of a lip that lies at higher row numbers."""
    mean_size = (3, window_rows)
    half = window_rows // 2 + 1

    def step(values: Floats) -> Floats:
        mean = cv2.blur(np.ascontiguousarray(values), mean_size)
        return np.asarray(np.roll(mean, -half, axis=0) - np.roll(mean, half, axis=0), np.float32)

    redder_below = np.clip(step(redness) / REDNESS_SCALE, -2.0, 2.0)
    other_lightness = np.clip(np.abs(step(lightness)) / LIGHTNESS_SCALE, 0.0, 1.5)
    return np.asarray(redder_below + 0.6 * other_lightness, np.float32)


def _best_path(gain: Floats, v: Floats, start: Floats, reach: float) -> Floats:
    """The smooth line of greatest gain within `reach` of `start`, found by dynamic programming.

    `gain` is (rows, columns); the result has one v per column. Towards the corners the search narrows to nothing.
    """
    num_offsets = max(1, round(reach / PATCH_STEP))
    offsets = np.arange(-num_offsets, num_offsets + 1)
    columns = np.arange(gain.shape[1])
    taper = np.clip((1.0 - np.abs(np.linspace(-1.0, 1.0, columns.size))) / 0.25, 0.02, 1.0)
    rows = np.clip(np.rint((start - v[0]) / PATCH_STEP).astype(int) + offsets[:, None], 0, gain.shape[0] - 1)
    penalty = DISTANCE_PENALTY * (offsets[:, None] / (num_offsets * taper)) ** 2
    score = gain[rows, columns] - penalty
    path = _cheapest_path(score, ROUGHNESS_PENALTY)
    return np.asarray(start + offsets[path] * PATCH_STEP, np.float32)


def _cheapest_path(score: NDArray[np.floating], roughness: float) -> NDArray[np.intp]:
    """The row per column of the smooth path through `score` (rows, columns) that collects most."""
    rows = np.arange(score.shape[0])
    step_cost = roughness * np.minimum(np.abs(rows[:, None] - rows), 6)
    best, came_from = score[:, 0], np.zeros(score.shape, np.intp)
    for column in range(1, score.shape[1]):
        reached = best[:, None] - step_cost
        came_from[:, column] = reached.argmax(axis=0)
        best = reached.max(axis=0) + score[:, column]
    path = np.zeros(score.shape[1], np.intp)
    path[-1] = best.argmax()
    for column in range(score.shape[1] - 1, 0, -1):
        path[column - 1] = came_from[path[column], column]
    return path


def _as_curve(u: Floats, v: Floats) -> Floats:
    """Smooth the path, tie it to the corners and tabulate it."""
    smooth = cv2.GaussianBlur(v.reshape(1, -1), (0, 0), SMOOTHING_COLUMNS, borderType=cv2.BORDER_REPLICATE)[0]
    return TabulatedCurve.through(np.stack([u[2:-2:2], smooth[2:-2:2]], axis=-1)).values

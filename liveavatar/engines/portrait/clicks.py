"""Face points from a few clicks, for faces that the face finder does not know: creatures, drawings, one eye.

The operator clicks the mouth corners, the chin and the middle of each eye. Everything else has a usual place in
the mouth's local frame (see `geometry.CornerFrame`: u along the mouth, v down, in half mouth widths). Where the
picture shows the opening of the mouth or the outline of an eye clearly, these replace the usual ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.face_points import EyePoints, FacePoints
from liveavatar.engines.portrait.geometry import CornerFrame

Click = tuple[float, float]
Doubles = NDArray[np.float64]
Picture = NDArray[np.uint8]

LIP_U = np.array([-0.78, -0.52, -0.26, 0.0, 0.26, 0.52, 0.78])
LID_U = np.array([-0.66, -0.33, 0.0, 0.33, 0.66])
MIN_MOUTH_PX = 4.0
MIN_CHIN = 0.25  # below the mouth; half mouth widths, like all lengths below
UPPER_LIP, LOWER_LIP = 0.20, 0.28  # usual thickness
NOSE_WITHOUT_EYES = 0.9  # usual height of the nose base above the mouth
NOSE_BETWEEN = 0.37  # share of the way from mouth to eyes
JAW_REACH = 1.7
EYE_HALF_WIDTH = 0.55
EYE_HALF_WIDTH_OF_PAIR = 0.24  # in distances between the two eyes
LID_HEIGHTS = (0.45, 0.30)  # upper and lower, in half eye widths
TOP_OVER_EYES = 1.1  # from the eyes up to the hairline, in distances from mouth to eyes
TOP_WITHOUT_EYES = 3.2  # from the mouth up to the hairline, in distances from mouth to chin

PATCH_SCALE = 48  # pixels per unit of the upright patches that are searched
DISTINCT = 10.0  # least Lab distance from skin that makes a lip opening or an eye stand out
MOUTH_SHARES = (0.42, 0.50, 0.60)  # ... and the share of the usual distance inside it; the first that is
SOLID = 0.95  # filled this far, else the fullest: with skin inside it, it has run into the nose
EYE_SHARE = 0.55
TALLEST_UPPER_LID = 1.3  # in lower lids, from the click: what looks taller has a brow or its shadow in it
EYE_RAYS = 24
EYE_REACH, EYE_REACH_OF_PAIR = 1.8, 1.35  # how far an eye may extend from the click, in usual half widths
RED_LIP = 10.0  # Lab redness over skin that makes a lip


def points_from_clicks(
    *,
    mouth_left: Click,
    mouth_right: Click,
    chin: Click,
    eyes: Sequence[Click],
    image_size: tuple[int, int],
    image_bgr: Picture | None = None,
) -> FacePoints:
    """Return the points, in pixels, of a face clicked at (x, y) fractions 0..1 of the picture.

    The corners may come in either order, and so may the eyes (at most two). `image_size` is (width, height);
    with `image_bgr` the mouth's opening and the eyes' outlines are looked up in the picture. Raises ValueError
    with the values when the clicks form no face.
    """
    size = np.array(image_size, np.float64)
    first, second, chin_px = (_pixel(click, size) for click in (mouth_left, mouth_right, chin))
    left, right = (first, second) if first[0] <= second[0] else (second, first)
    eyes_px = sorted((_pixel(eye, size) for eye in eyes), key=lambda eye: float(eye[0]))
    if np.hypot(*(right - left)) < MIN_MOUTH_PX:
        raise ValueError(
            f"mouth corners {mouth_left} and {mouth_right} are less than {MIN_MOUTH_PX} px apart"
        )
    frame = CornerFrame.between(left, right)
    _check_order(frame, chin_px, eyes_px)
    chin_v = float(frame.to_local(chin_px)[1])
    upper_outer, upper_inner, lower_inner, lower_outer = _lip_curves(frame, chin_v, image_bgr)
    limit = size - 1

    def place(u: float | Doubles, v: float | Doubles) -> Doubles:
        return np.clip(_to_picture(frame, u, v), 0, limit)

    top_v, nose_v = _heights_above(frame, chin_v, eyes_px)
    top = _to_picture(frame, 0.0, top_v)
    return FacePoints(
        mouth_left=left,
        mouth_right=right,
        upper_lip_outer=place(LIP_U, upper_outer),
        upper_lip_inner=place(LIP_U, upper_inner),
        lower_lip_inner=place(LIP_U, lower_inner),
        lower_lip_outer=place(LIP_U, lower_outer),
        nose_base=place(0.0, nose_v),
        chin=chin_px,
        jaw_left=place(-JAW_REACH, 0.1),
        jaw_right=place(JAW_REACH, 0.1),
        eyes=tuple(_eye(frame, eye, eyes_px, limit, image_bgr) for eye in eyes_px),
        head_centre=(top + chin_px) / 2,
        head_radius=0.55 * float(np.hypot(*(top - chin_px))),
    )


def _pixel(click: Click, size: Doubles) -> Doubles:
    position = np.asarray(click, np.float64)
    if position.shape != (2,) or not np.all((position >= 0) & (position <= 1)):
        raise ValueError(f"a click must be two fractions 0..1 of the picture, got {click}")
    return position * (size - 1)


def _check_order(frame: CornerFrame, chin: Doubles, eyes: list[Doubles]) -> None:
    chin_v = float(frame.to_local(chin)[1])
    if chin_v < MIN_CHIN:
        raise ValueError(
            f"the chin lies {chin_v:.2f} half mouth widths below the mouth, need {MIN_CHIN} or more"
        )
    if len(eyes) > 2:
        raise ValueError(f"at most two eyes can be clicked, got {len(eyes)}")
    for eye in eyes:
        eye_v = float(frame.to_local(eye)[1])
        if eye_v > -MIN_CHIN:
            raise ValueError(f"an eye at pixel {eye.round().tolist()} is not above the mouth")
    if len(eyes) == 2 and np.hypot(*(eyes[1] - eyes[0])) < MIN_MOUTH_PX:
        raise ValueError(f"two eyes at the same place: {[eye.round().tolist() for eye in eyes]}")


def _to_picture(frame: CornerFrame, u: float | Doubles, v: float | Doubles) -> Doubles:
    """Turn local coordinates into pixels (..., 2)."""
    u, v = np.broadcast_arrays(np.asarray(u, np.float64), np.asarray(v, np.float64))
    return frame.centre + frame.half_width * (u[..., None] * frame.u_axis + v[..., None] * frame.v_axis)


def _heights_above(frame: CornerFrame, chin_v: float, eyes: list[Doubles]) -> tuple[float, float]:
    """Return v of the hairline and of the nose base."""
    if eyes:
        eyes_v = float(np.mean([frame.to_local(eye)[1] for eye in eyes]))
        return eyes_v * (1 + TOP_OVER_EYES), eyes_v * NOSE_BETWEEN
    return -TOP_WITHOUT_EYES * chin_v, -min(NOSE_WITHOUT_EYES, 0.6 * chin_v)


def _lip_curves(
    frame: CornerFrame, chin_v: float, image: Picture | None
) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Return v of upper outer, upper inner, lower inner and lower outer edge at LIP_U."""
    arch = 1 - LIP_U**2
    upper_thickness, lower_thickness = UPPER_LIP * arch**0.9, min(LOWER_LIP, 0.3 * chin_v) * arch**0.9
    upper_inner = lower_inner = 0.06 * arch
    if image is not None:
        opening = _mouth_opening(frame, chin_v, image)
        if opening is not None:
            upper_inner, lower_inner = opening
    return upper_inner - upper_thickness, upper_inner, lower_inner, lower_inner + lower_thickness


def _mouth_opening(frame: CornerFrame, chin_v: float, image: Picture) -> tuple[Doubles, Doubles] | None:
    """Find the edges of what is dark or bright between the lips; None when nothing stands out from the skin.

    Skin is the median colour beside the mouth and below it. Lips that are redder than the skin count as skin.
    """
    lowest, highest = 0.75 * chin_v, -0.5
    u = np.linspace(-1.3, 1.3, round(2.6 * PATCH_SCALE))
    v = np.linspace(highest, lowest, max(8, round((lowest - highest) * PATCH_SCALE)))
    lab = _patch(frame, u, v, image)
    skin = np.median(lab[:, np.abs(u) > 1.08].reshape(-1, 3), axis=0)
    red = (lab[..., 1] - skin[1] > RED_LIP) & (lab[..., 0] > 0.55 * skin[0])
    contrast = _contrast(lab, skin)
    usual = float(np.percentile(contrast[:, np.abs(u) < 0.7], 75))
    found = []
    for share in MOUTH_SHARES:
        distinct = (contrast > max(DISTINCT, share * usual)) & ~red & (np.abs(u) <= 1.0)
        opening = _component_near(distinct, np.argmin(np.abs(v - 0.1)), np.argmin(np.abs(u)))
        edges = None if opening is None else _opening_edges(opening, u, v)
        if opening is not None and edges is not None:
            found.append((min(SOLID, _filled_share(opening)), edges))
    return max(found, key=lambda each: each[0])[1] if found else None


def _filled_share(opening: NDArray[np.bool_]) -> float:
    """Return how much of what lies between its upper and lower edge a shape fills, 0 .. 1."""
    below_top = np.maximum.accumulate(opening, axis=0)
    above_bottom = np.maximum.accumulate(opening[::-1], axis=0)[::-1]
    return float(opening.sum() / (below_top & above_bottom).sum())


def _opening_edges(opening: NDArray[np.bool_], u: Doubles, v: Doubles) -> tuple[Doubles, Doubles] | None:
    """Return v of the upper and lower edge of the opening at LIP_U, or None if the shape is no mouth's."""
    if opening.any(axis=0).mean() < 0.35:
        return None
    edges = []
    for rows in (opening, opening[::-1]):
        columns = np.flatnonzero(opening.any(axis=0) & (np.abs(u) < 0.92))
        first = rows[:, columns].argmax(axis=0)
        heights = v[first] if rows is opening else v[::-1][first]
        edges.append(_through_corners(u[columns], heights))
    upper, lower = edges
    if not np.all((upper > v[0]) & (lower < v[-1]) & (lower > upper)):
        return None
    return upper, lower


def _through_corners(u: Doubles, v: Doubles) -> Doubles:
    """Fit (1 - u^2) times a parabola, so that the edge meets both corners; return its v at LIP_U."""

    def terms(at: Doubles) -> Doubles:
        return (1 - at**2)[:, None] * np.stack([np.ones_like(at), at, at**2], axis=1)

    weights = np.linalg.lstsq(terms(u), v, rcond=None)[0]
    return np.asarray(terms(LIP_U) @ weights, np.float64)


def _eye(
    face: CornerFrame, centre: Doubles, all_eyes: list[Doubles], limit: Doubles, image: Picture | None
) -> EyePoints:
    """Return the points of one eye around its clicked middle."""
    half_width, reach = EYE_HALF_WIDTH * face.half_width, EYE_REACH
    if len(all_eyes) == 2:
        reach = EYE_REACH_OF_PAIR
        half_width = EYE_HALF_WIDTH_OF_PAIR * float(np.hypot(*(all_eyes[1] - all_eyes[0])))
    frame = CornerFrame.between(centre - half_width * face.u_axis, centre + half_width * face.u_axis)
    left_u, right_u, upper, lower = -1.0, 1.0, -LID_HEIGHTS[0], LID_HEIGHTS[1]
    if image is not None and (box := _eye_outline(frame, image, reach)) is not None:
        left_u, right_u, upper, lower = box
    middle_v = (upper + lower) / 2 if image is not None else 0.0
    middle_v = np.clip(middle_v, upper, lower)
    lid_u = (left_u + right_u) / 2 + (right_u - left_u) / 2 * LID_U
    arch = np.sqrt(1 - LID_U**2)

    def place(u: float | Doubles, v: float | Doubles) -> Doubles:
        return np.clip(_to_picture(frame, u, v), 0, limit)

    return EyePoints(
        corner_left=place(left_u, middle_v),
        corner_right=place(right_u, middle_v),
        upper_lid=place(lid_u, middle_v + (upper - middle_v) * arch),
        lower_lid=place(lid_u, middle_v + (lower - middle_v) * arch),
        brow=place((left_u + right_u) / 2, upper - 0.7 * (right_u - left_u) / 2),
    )


def _eye_outline(
    frame: CornerFrame, image: Picture, farthest: float
) -> tuple[float, float, float, float] | None:
    """Return left u, right u, upper v and lower v of what is not skin around the click, or None.

    Rays run outwards from the click until they meet the colour of the cheek. Too few that do, or a size far
    from the usual one, and the outline is not trusted. `farthest` and the result are in half eye widths.
    """
    axis = np.linspace(-2, 2, 4 * PATCH_SCALE)
    lab = _patch(frame, axis, axis, image)
    radius_at = np.hypot(axis[None, :], axis[:, None])
    cheek = (radius_at > 1.2) & (radius_at < 1.9) & (axis[:, None] > 0.4)
    contrast = _contrast(lab, np.median(lab[cheek], axis=0))
    distinct = contrast > max(DISTINCT, EYE_SHARE * float(np.median(contrast[radius_at < 0.7])))
    angle = np.linspace(0, 2 * np.pi, EYE_RAYS, endpoint=False)
    steps = np.linspace(0.1, farthest, 80)
    rows, columns = (
        np.round((trace(angle)[:, None] * steps + 2) / 4 * (len(axis) - 1)).astype(int)
        for trace in (np.sin, np.cos)
    )
    ended = ~distinct[rows, columns]
    lasting = ended[:, :-3] & ended[:, 1:-2] & ended[:, 2:-1]  # a glint or a lash is not the end
    reach = np.where(lasting.any(axis=1), steps[lasting.argmax(axis=1)], farthest)
    if lasting.any(axis=1).mean() < 0.6:
        return None
    smooth = np.median([np.roll(reach, shift) for shift in range(-2, 3)], axis=0)
    across, down = smooth * np.cos(angle), smooth * np.sin(angle)
    left, right, upper, lower = float(across.min()), float(across.max()), float(down.min()), float(down.max())
    upper = max(upper, -TALLEST_UPPER_LID * lower)
    plausible = 1.0 < right - left < 3.2 and 0.25 < lower - upper < 3.2
    return (left, right, upper, lower) if plausible else None


def _patch(frame: CornerFrame, u: Doubles, v: Doubles, image: Picture) -> Doubles:
    """Return the picture in Lab (L 0..100) on the grid of local coordinates: (len(v), len(u), 3)."""
    grid_u, grid_v = np.meshgrid(u.astype(np.float32), v.astype(np.float32))
    x, y = frame.to_picture(grid_u, grid_v)
    if (shrink := frame.half_width / PATCH_SCALE) > 1:
        image = cv2.GaussianBlur(image, (0, 0), 0.5 * shrink).astype(np.uint8, copy=False)
    patch = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(patch.astype(np.float32) / 255, cv2.COLOR_BGR2Lab).astype(np.float64)


def _contrast(lab: Doubles, skin: Doubles) -> Doubles:
    """Return the Lab distance from the skin colour, lightness at half weight: skin is lit and shaded."""
    return np.asarray(np.linalg.norm((lab - skin) * [0.5, 1, 1], axis=-1), np.float64)


def _component_near(
    mask: NDArray[np.bool_], row: int | np.intp, column: int | np.intp
) -> NDArray[np.bool_] | None:
    """Return the connected part of `mask` with the best ratio of area to distance from (row, column)."""
    count, labels, stats, centres = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return None
    distance = np.hypot(centres[1:, 0] - column, centres[1:, 1] - row)
    rating = stats[1:, cv2.CC_STAT_AREA] / (1 + (distance / (0.4 * PATCH_SCALE)) ** 2)
    return np.asarray(labels == 1 + int(np.argmax(rating)))

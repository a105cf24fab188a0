"""Blinks, glances and brows, drawn into the portrait around its eyes.

A closing lid is a sheet of skin, painted by `lids`, that slides down from under its crease with its lashes.
All lengths are those of the eye's local frame: half the distance between its corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.face_points import EyePoints, FacePoints
from liveavatar.engines.portrait.geometry import (
    CornerFrame,
    Floats,
    Picture,
    TabulatedCurve,
    smoothstep,
)
from liveavatar.engines.portrait.lids import ClosedLid, EyeShape, paint_closed_lid
from liveavatar.engines.portrait.motion import FramePose

MIN_HALF_WIDTH_PX = 2.5  # a smaller eye is a smudge; moving it would only flicker
MIN_SHARE_OF_LARGER_EYE = 0.5  # a much narrower second eye is hidden behind the nose of a turned face
LID_MEETS_AT = 0.90  # the lids meet this far down the opening; the lower lid rises the rest
CREASE_ABOVE = 0.24  # the lid's crease lies this far above the edge of the open lid, at mid-eye
BROW_HEIGHT = (0.45, 1.5)  # plausible distance from lid to brow
FOREHEAD_ABOVE = 1.1  # the forehead follows the brow over this height
MAX_BROW = 0.22
MAX_GAZE_X = 0.30
MAX_GAZE_Y = 0.18  # as a share of the opening
RIM_OF_LID = 0.04  # the upper lid's dark rim reaches this far below its edge
LID_SHADOW = 0.25  # how much the lid darkens the eyeball just below it
STILL = 1e-3  # smaller motions are not worth drawing


Pixel = TypeVar("Pixel", np.uint8, np.float32)


@dataclass(frozen=True, kw_only=True)
class _Gaze:
    """How a turning eyeball moves the pixels of the opening. Arrays are those pixels of the eye's region."""

    where: tuple[slice, slice]  # the opening in the eye's region
    u: Floats
    v: Floats  # kept within the opening
    across: Floats  # share of a turn to the side that each pixel follows, 0 .. 1
    down: Floats  # and of one up or down
    upper_curve: TabulatedCurve  # edges of the open lids, v of u; the upper one below its dark rim
    lower_curve: TabulatedCurve
    largest_y: float  # the largest turn up or down


@dataclass(frozen=True, kw_only=True)
class _Eye:
    """One eye: its shape, how it follows the brow, and its lid painted shut."""

    shape: EyeShape
    gaze: _Gaze
    brow_weight: Floats  # (rows, columns) of the eye's region: how far each pixel follows the brow, 0 .. 1
    brow_limit: float  # the largest raise that stretches without folding
    closed: ClosedLid


class EyeRenderer:
    """Draws lids, gaze and brows of all the eyes of one face."""

    def __init__(self, image_bgr: Picture, points: FacePoints) -> None:
        widths = [float(np.hypot(*(eye.corner_right - eye.corner_left))) / 2 for eye in points.eyes]
        widest = max(widths, default=0.0)
        self._eyes = [
            prepared
            for eye, width in zip(points.eyes, widths, strict=True)
            if width >= max(MIN_HALF_WIDTH_PX, MIN_SHARE_OF_LARGER_EYE * widest)
            and (prepared := _prepare(image_bgr, eye)) is not None
        ]

    @property
    def num_eyes(self) -> int:
        """Eyes that are large enough to be drawn."""
        return len(self._eyes)

    def draw(self, canvas_bgr: Picture, pose: FramePose) -> None:
        """Draw `pose` into the canvas, in place. The canvas has the size of the picture given first."""
        for eye in self._eyes:
            patch = canvas_bgr[eye.shape.region.slices]
            moved = _move_gaze_and_brow(eye, patch, pose)
            if pose.blink > STILL:
                moved = _close_lid(eye, moved, min(pose.blink, 1.0))
            canvas_bgr[eye.shape.region.slices] = moved


def _prepare(image_bgr: Picture, points: EyePoints) -> _Eye | None:
    """Measure one eye and paint its closed lid; `None` when it lies outside the picture."""
    frame = CornerFrame.between(points.corner_left, points.corner_right)
    upper_curve = TabulatedCurve.through(frame.to_local(points.upper_lid))
    lower_curve = TabulatedCurve.through(frame.to_local(points.lower_lid))
    top = float(upper_curve.values.min())
    bottom = float(lower_curve.values.max())
    brow_height = float(np.clip(top - frame.to_local(points.brow)[1], *BROW_HEIGHT))
    region = frame.region(
        u_range=(-1.95, 1.95),
        v_range=(top - brow_height - FOREHEAD_ABOVE - 0.1, bottom + 0.9),
        picture_shape=image_bgr.shape,
    )
    if min(region.width, region.height) < 4:
        return None
    u, v = frame.grid(region)
    inside = np.clip(u, -1, 1)
    upper = upper_curve(inside)
    lower = np.maximum(lower_curve(inside), upper)
    shape = EyeShape(
        frame=frame,
        region=region,
        u=u,
        v=v,
        upper=upper,
        lower=lower,
        crease=upper - CREASE_ABOVE * (1 - 0.35 * inside**2),
        meeting=upper + LID_MEETS_AT * (lower - upper),
        brow_v=top - brow_height,
    )
    return _Eye(
        shape=shape,
        gaze=_prepare_gaze(shape, upper_curve, lower_curve),
        brow_weight=_brow_weight(shape),
        brow_limit=min(MAX_BROW, 0.45 * brow_height),
        closed=paint_closed_lid(image_bgr[region.slices], shape),
    )


def _brow_weight(eye: EyeShape) -> Floats:
    """0 at the lid, 1 at the brow, fading out over the forehead and to both sides."""
    brow_from = np.minimum(eye.upper - 0.4, eye.brow_v).astype(np.float32)
    rising = smoothstep(eye.v, eye.upper - 0.04, brow_from)
    fading = 1 - smoothstep(eye.v, eye.brow_v - 0.15, eye.brow_v - FOREHEAD_ABOVE)
    sideways = 1 - smoothstep(np.abs(eye.u), 1.0, 1.9)
    return np.asarray(rising * fading * sideways, np.float32)


def _prepare_gaze(eye: EyeShape, upper_curve: TabulatedCurve, lower_curve: TabulatedCurve) -> _Gaze:
    """Measure the opening, with the rim of the lower lid, in which the iris' edge lies."""
    opening = np.maximum(eye.lower - eye.upper, 1e-3)
    moves = (np.abs(eye.u) < 1) & (opening > 0.02) & (eye.v > eye.upper - 0.02) & (eye.v < eye.lower + 0.08)
    moves[0, 0] |= not moves.any()  # an opening outside the picture: one pixel that stays
    rows, columns = np.flatnonzero(moves.any(axis=1)), np.flatnonzero(moves.any(axis=0))
    where = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    depth = np.clip((eye.v - eye.upper) / opening, 0, 1)  # 0 at the upper lid, 1 at the lower
    corner_fade = smoothstep(1 - np.abs(eye.u), 0.0, 0.65) * moves
    lid_fade = smoothstep(eye.v, eye.upper - 0.02, eye.upper + 0.06)
    lid_fade *= 1 - smoothstep(eye.v, eye.lower + 0.01, eye.lower + 0.08)
    below_rim = TabulatedCurve(values=upper_curve.values + np.float32(RIM_OF_LID))
    lower = lower_curve(eye.u)
    return _Gaze(
        where=where,
        u=eye.u[where],
        v=np.clip(eye.v, np.minimum(below_rim(eye.u), lower), lower)[where],
        across=(corner_fade * lid_fade)[where],
        down=(corner_fade * 4 * depth * (1 - depth))[where],
        upper_curve=below_rim,
        lower_curve=lower_curve,
        largest_y=MAX_GAZE_Y * float(opening.max()),
    )


def _move_gaze_and_brow(eye: _Eye, patch: Picture, pose: FramePose) -> Picture:
    """Shift the iris within the opening, the brow with its skin, and the lower lid in a blink."""
    brow = float(np.clip(pose.brow, -0.5 * eye.brow_limit, eye.brow_limit))
    if max(abs(pose.gaze_x), abs(pose.gaze_y), abs(brow), pose.blink) < STILL:
        return patch.copy()
    gaze = eye.gaze
    shift_u, shift_v = np.zeros_like(eye.shape.u), -brow * eye.brow_weight
    turn_u = float(np.clip(pose.gaze_x, -MAX_GAZE_X, MAX_GAZE_X)) * gaze.across
    turn_v = float(np.clip(pose.gaze_y, -gaze.largest_y, gaze.largest_y)) * gaze.down
    # The lids do not move along: what would come from behind one comes from its edge instead.
    upper, lower = gaze.upper_curve(gaze.u - turn_u), gaze.lower_curve(gaze.u - turn_u)
    turn_v += gaze.v - np.clip(gaze.v, np.minimum(upper, lower), lower)
    shift_u[gaze.where] = turn_u
    shift_v[gaze.where] += turn_v
    return _shift(eye.shape, patch, shift_u, shift_v)


def _close_lid(eye: _Eye, patch: Picture, blink: float) -> Picture:
    """Lay the lid over the eye, closed by `blink` (0 .. 1)."""
    shape, closed = eye.shape, eye.closed
    upper_edge = shape.upper + blink * (shape.meeting - shape.upper)
    lower_edge = shape.lower + blink * (shape.meeting - shape.lower)
    softness = 0.6 / shape.frame.half_width
    between_corners = smoothstep(1.20 - np.abs(shape.u), 0.0, 0.22)
    # While the lid has hardly moved its edge still lies at the open eye's own, which shows as it is.
    settled = smoothstep(blink, 0.0, 0.35)

    eyeball = (np.abs(shape.u) < 1) & (shape.v > upper_edge) & (shape.v < lower_edge)
    shadow = LID_SHADOW * blink * np.exp(-np.maximum(shape.v - upper_edge, 0) / 0.16) * eyeball
    result = patch.astype(np.float32) * (1 - shadow)[..., None]
    result += (closed.bare - result) * (settled * closed.lashed)[..., None]

    beyond_lower_edge = np.clip((shape.v - lower_edge) / (2 * softness) + 0.5, 0, 1)
    # Towards their corners, round eyes reach below the curve through their points.
    reach = 0.08 + 0.22 * float((shape.lower - shape.upper).max()) * shape.u**2
    lower_cover = beyond_lower_edge * (1 - smoothstep(shape.v - shape.lower - reach, 0.0, 0.16))
    lower_cover *= between_corners * smoothstep(blink, 0.5, 1.0)
    result += (closed.skin_and_lashes[..., :3] - result) * lower_cover[..., None]

    skin_and_lashes = _slide(eye, upper_edge)
    above_edge = np.clip((upper_edge - shape.v) / (2 * softness) + 0.5, 0, 1)
    from_rim = smoothstep(shape.v, np.maximum(shape.upper - 0.5, shape.brow_v + 0.2), shape.upper - 0.2)
    upper_cover = above_edge * from_rim * between_corners * settled
    result += (skin_and_lashes[..., :3] - result) * upper_cover[..., None]
    result += (closed.lash_colour - result) * (settled * skin_and_lashes[..., 3:])
    return np.clip(result + 0.5, 0, 255).astype(np.uint8)


def _slide(eye: _Eye, edge: Floats) -> Floats:
    """The closed lid drawn up until its lashes lie at `edge`; the rest has gone under the crease."""
    shift_v = edge - eye.shape.meeting
    painted = eye.closed.skin_and_lashes
    if float(np.abs(shift_v).max()) < STILL:
        return painted
    return _shift(eye.shape, painted, np.zeros_like(shift_v), shift_v)


def _shift(eye: EyeShape, patch: NDArray[Pixel], shift_u: Floats, shift_v: Floats) -> NDArray[Pixel]:
    """Move the content of a patch by local displacements (each pixel fetches from where it came)."""
    u_axis, v_axis = eye.frame.half_width * eye.frame.u_axis, eye.frame.half_width * eye.frame.v_axis
    rows, columns = eye.u.shape
    x = (
        np.arange(columns, dtype=np.float32)[None, :]
        - shift_u * np.float32(u_axis[0])
        - shift_v * np.float32(v_axis[0])
    )
    y = (
        np.arange(rows, dtype=np.float32)[:, None]
        - shift_u * np.float32(u_axis[1])
        - shift_v * np.float32(v_axis[1])
    )
    moved: NDArray[Any] = cv2.remap(
        patch, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return moved.astype(patch.dtype, copy=False)

"""Blinks, glances and brows, drawn into the portrait around its eyes.

A closing lid is a sheet of skin that slides down from under its crease. Its colour is filled in from the skin around
the eye, because few portraits show enough of the lid to stretch: stretched pixels smear.
All lengths are those of the eye's local frame: half the distance between its corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.face_points import EyePoints, FacePoints
from liveavatar.engines.portrait.geometry import (
    CornerFrame,
    Floats,
    Picture,
    Region,
    TabulatedCurve,
    smoothstep,
)
from liveavatar.engines.portrait.matte import fill_smoothly
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
SKIN_HUE_TOLERANCE = 16.0  # in the colour plane of Lab, in steps of 8-bit values
LID_SHADOW = 0.25  # how much the lid darkens the eyeball just below it
STILL = 1e-3  # smaller motions are not worth drawing


@dataclass(frozen=True, kw_only=True)
class _Eye:
    """One eye's geometry, and its lid painted shut. Arrays are (rows, columns) of `region`."""

    frame: CornerFrame
    region: Region
    u: Floats
    v: Floats
    upper: Floats  # v of the open upper lid's edge
    lower: Floats  # v of the lower lid's edge
    crease: Floats  # v of the lid's crease
    meeting: Floats  # v of the line where the closed lids meet
    brow_weight: Floats  # how far each pixel follows the brow, 0 .. 1
    brow_limit: float  # the largest raise that stretches without folding
    closed: Floats  # (rows, columns, 3), the lid as it looks when it is shut


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
            patch = canvas_bgr[eye.region.slices]
            moved = _move_gaze_and_brow(eye, patch, pose)
            if pose.blink > STILL:
                moved = _close_lid(eye, moved, min(pose.blink, 1.0))
            canvas_bgr[eye.region.slices] = moved


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
    crease = upper - CREASE_ABOVE * (1 - 0.35 * inside**2)
    meeting = upper + LID_MEETS_AT * (lower - upper)
    picture = image_bgr[region.slices]
    return _Eye(
        frame=frame,
        region=region,
        u=u,
        v=v,
        upper=upper,
        lower=lower,
        crease=crease,
        meeting=meeting,
        brow_weight=_brow_weight(u, v, upper, top - brow_height),
        brow_limit=min(MAX_BROW, 0.45 * brow_height),
        closed=_paint_closed_lid(picture, frame, u, v, upper, lower, crease, meeting),
    )


def _brow_weight(u: Floats, v: Floats, upper: Floats, brow_v: float) -> Floats:
    """0 at the lid, 1 at the brow, fading out over the forehead and to both sides."""
    rising = smoothstep(v, upper - 0.04, np.minimum(upper - 0.4, brow_v).astype(np.float32))
    fading = 1 - smoothstep(v, brow_v - 0.15, brow_v - FOREHEAD_ABOVE)
    sideways = 1 - smoothstep(np.abs(u), 1.0, 1.9)
    return np.asarray(rising * fading * sideways, np.float32)


def _paint_closed_lid(
    picture: Picture,
    frame: CornerFrame,
    u: Floats,
    v: Floats,
    upper: Floats,
    lower: Floats,
    crease: Floats,
    meeting: Floats,
) -> Floats:
    """Paint skin over the opening: filled from around, rounded by shading, with a crease and a line of lashes."""
    pixel = 1 / frame.half_width
    skin = _surrounding_skin(picture, u, v, crease, lower)
    across = np.clip(1 - u**2, 0, 1)
    down_the_lid = np.clip((v - crease) / np.maximum(meeting - crease, 0.05), 0, 1)
    roundness = 1 + across * (0.07 * np.sin(np.pi * down_the_lid) - 0.10 * down_the_lid**3)
    crease_width = 0.08 + 0.5 * pixel
    fold = 1 - 0.09 * across * np.exp(-(((v - crease) / crease_width) ** 2))
    lash_width = (0.04 + 0.5 * pixel) * (0.55 + 0.45 * across)
    lashes = np.exp(-(((v - meeting) / lash_width) ** 2)) * smoothstep(1.04 - np.abs(u), 0, 0.3)
    lash_shade = _lash_darkness(picture, skin, u, v, upper, lower)
    texture = _mirrored_texture(picture, frame, u, v, lower)
    shaded = skin * (roundness * fold)[..., None] + texture
    return np.asarray(shaded * (1 - (1 - lash_shade) * lashes)[..., None], np.float32)


def _surrounding_skin(picture: Picture, u: Floats, v: Floats, crease: Floats, lower: Floats) -> Floats:
    """The colours of the skin around the eye, continued over the opening; brows, hair and rims are left out."""
    opening = (np.abs(u) < 1.18) & (v > crease - 0.04) & (v < lower + 0.12)
    ring = ~opening & (np.abs(u) < 1.5) & (v > crease - 0.55) & (v < lower + 0.6)
    if not ring.any():
        return picture.astype(np.float32)
    filled = fill_smoothly(picture, ring & _has_usual_colour(picture, ring))
    soft = max(0.6, 0.12 / float(np.abs(np.diff(u[0])).mean() + 1e-6))
    return np.asarray(cv2.GaussianBlur(filled, (0, 0), soft), np.float32)


def _has_usual_colour(picture: Picture, ring: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels whose brightness and hue are those of most of `ring`: skin, as opposed to hair or eyeball."""
    lab = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB).astype(np.float32)
    lightness, hue = lab[..., 0], lab[..., 1:]
    typical = float(np.percentile(lightness[ring], 60))  # of the ring the darker part is brows and shadow
    is_as_bright = (lightness > 0.78 * typical) & (lightness < 1.25 * typical)
    usual_hue = np.median(hue[ring & is_as_bright], axis=0)
    has_hue = np.linalg.norm(hue - usual_hue, axis=-1) < SKIN_HUE_TOLERANCE
    return np.asarray(is_as_bright & has_hue)


def _lash_darkness(
    picture: Picture, skin: Floats, u: Floats, v: Floats, upper: Floats, lower: Floats
) -> float:
    """How dark the line of lashes is against the skin, as a factor: that of the open eye's own upper rim."""
    rim = (np.abs(u) < 0.8) & (np.abs(v - upper) < 0.12)
    if not rim.any():
        return 0.5
    darkest = float(np.percentile(picture[rim].mean(axis=1), 15))
    return float(np.clip(darkest / max(float(skin[rim].mean()), 1.0), 0.42, 0.70))


def _mirrored_texture(picture: Picture, frame: CornerFrame, u: Floats, v: Floats, lower: Floats) -> Floats:
    """The fine grain of the cheek below the eye, mirrored up over the lid, so that the lid is not smoother."""
    blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), max(0.8, 0.08 * frame.half_width))
    detail = picture.astype(np.float32) - blurred
    grain = np.where(np.abs(detail) < 6, detail, 0)  # more than that is an edge, which must not be mirrored
    shift_v = 2 * (lower + 0.22 - v)
    step_x, step_y = frame.half_width * frame.v_axis
    rows, columns = v.shape
    x = np.arange(columns, dtype=np.float32)[None, :] + shift_v * np.float32(step_x)
    y = np.arange(rows, dtype=np.float32)[:, None] + shift_v * np.float32(step_y)
    mirrored = cv2.remap(
        grain, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(0.7 * mirrored, np.float32)


def _move_gaze_and_brow(eye: _Eye, patch: Picture, pose: FramePose) -> Picture:
    """Shift the iris within the opening, the brow with its skin, and the lower lid in a blink."""
    brow = float(np.clip(pose.brow, -0.5 * eye.brow_limit, eye.brow_limit))
    if max(abs(pose.gaze_x), abs(pose.gaze_y), abs(brow), pose.blink) < STILL:
        return patch.copy()
    opening = np.maximum(eye.lower - eye.upper, 1e-3)
    depth = np.clip((eye.v - eye.upper) / opening, 0, 1)  # 0 at the upper lid, 1 at the lower
    is_inside = (np.abs(eye.u) < 1) & (opening > 0.02)
    lid_fade = np.where(is_inside, np.clip(5 * depth * (1 - depth), 0, 1), 0)
    corner_fade = smoothstep(1 - np.abs(eye.u), 0.0, 0.65)
    shift_u = float(np.clip(pose.gaze_x, -MAX_GAZE_X, MAX_GAZE_X)) * corner_fade * lid_fade
    largest_y = MAX_GAZE_Y * float(opening.max())
    gaze_y = float(np.clip(pose.gaze_y, -largest_y, largest_y))
    shift_v = gaze_y * corner_fade * np.where(is_inside, 4 * depth * (1 - depth), 0)
    shift_v = shift_v - brow * eye.brow_weight
    return _shift(eye, patch, shift_u, shift_v)


def _close_lid(eye: _Eye, patch: Picture, blink: float) -> Picture:
    """Lay the lid over the eye, closed by `blink` (0 .. 1)."""
    upper_edge = eye.upper + blink * (eye.meeting - eye.upper)
    lower_edge = eye.lower + blink * (eye.meeting - eye.lower)
    softness = 0.6 / eye.frame.half_width
    between_corners = smoothstep(1.20 - np.abs(eye.u), 0.0, 0.22)

    eyeball = (np.abs(eye.u) < 1) & (eye.v > upper_edge) & (eye.v < lower_edge)
    shadow = LID_SHADOW * blink * np.exp(-np.maximum(eye.v - upper_edge, 0) / 0.16) * eyeball
    result = patch.astype(np.float32) * (1 - shadow)[..., None]

    beyond_lower_edge = np.clip((eye.v - lower_edge) / (2 * softness) + 0.5, 0, 1)
    # Towards their corners, round eyes reach below the curve through their points.
    reach = 0.08 + 0.22 * float((eye.lower - eye.upper).max()) * eye.u**2
    lower_cover = beyond_lower_edge * (1 - smoothstep(eye.v - eye.lower - reach, 0.0, 0.16))
    result += (eye.closed - result) * (lower_cover * between_corners * smoothstep(blink, 0.5, 1.0))[..., None]

    # The upper lid reaches to the tips of its lashes, and above to its crease, where it blends with the skin.
    above_edge = np.clip((upper_edge + 0.05 + softness - eye.v) / (2 * softness) + 0.5, 0, 1)
    below_crease = smoothstep(eye.v, eye.crease - 0.10, eye.crease + 0.04)
    # While the lid has hardly moved its edge still lies at the open eye's own, which shows as it is.
    settled = smoothstep(blink, 0.0, 0.35)
    upper_cover = above_edge * below_crease * between_corners * settled
    result += (_slide(eye, upper_edge) - result) * upper_cover[..., None]
    return np.clip(result + 0.5, 0, 255).astype(np.uint8)


def _slide(eye: _Eye, edge: Floats) -> Floats:
    """The closed lid drawn up until its lashes lie at `edge`; the rest has gone under the crease."""
    shift_v = edge - eye.meeting
    if float(np.abs(shift_v).max()) < STILL:
        return eye.closed
    return np.asarray(_shift(eye, eye.closed, np.zeros_like(shift_v), shift_v), np.float32)


def _shift(eye: _Eye, patch: NDArray[np.uint8] | Floats, shift_u: Floats, shift_v: Floats) -> Picture:
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
    moved = cv2.remap(
        patch, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved, patch.dtype)

"""Where the parts of one mouth are: lip curves, nose, chin and jaw in the local frame between the corners.

Lengths are in half mouth widths (see `geometry.py`) unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from liveavatar.engines.portrait.face_points import FacePoints
from liveavatar.engines.portrait.geometry import (
    SAMPLES_PER_UNIT,
    CornerFrame,
    Doubles,
    Floats,
    Picture,
    TabulatedCurve,
    floats,
    slant,
    smoothstep,
)
from liveavatar.engines.portrait.mouth_edges import refine_inner_lips, trace_open_mouth

MIN_NOSE_DISTANCE = 0.30  # the philtrum needs some skin to stretch, whatever the points say
MIN_CHIN_DISTANCE = 0.90  # likewise the chin
MIN_JAW_REACH = 1.25  # the jaw is wider than the mouth, also where a profile hides one side
MAX_JAW_REACH = 2.40  # a jaw point on the hair or on the shoulder must not drag the background
MIN_LIP_THICKNESS = 0.04  # thinner lips are measurement noise
MAX_UPPER_LIP_THICKNESS = 0.40  # full lips reach about 0.35
MAX_LOWER_LIP_THICKNESS = 0.48
WIDE_OPEN_GAP = 0.60  # parted further, the whole rim is traced
BOWED_GAP = 0.25  # parted further, the lower edge sags without dents
ELLIPSE_SHARE = 0.95
SIDE_THICKNESS = 0.8  # of a lip, against its middle
CORNER_SHADOW = 0.05  # of half a mouth width, beyond the corners of a wide-open mouth
NECK_BELOW_CHIN = 0.90  # the jaw's motion has faded out this far below the chin
CONTACT_SMOOTHING = 0.09  # Gaussian sigma along u
CLOSING_SHARE_OF_UPPER_LIP = 0.30  # of the way that two parted lips go to meet, the upper one does this part


@dataclass(frozen=True, kw_only=True)
class MouthAnatomy:
    """The mouth of the portrait, as it is in the picture."""

    frame: CornerFrame
    upper_outer: TabulatedCurve  # border between upper lip and skin
    upper_inner: TabulatedCurve  # lower edge of the upper lip
    lower_inner: TabulatedCurve  # upper edge of the lower lip
    lower_outer: TabulatedCurve  # border between lower lip and chin
    nose_level: float  # v of the nose base, negative
    chin_level: float  # v of the chin, positive
    neck_level: float  # v at which the neck no longer follows the jaw
    jaw_left_reach: float  # distance from the mouth's centre to the left side of the jaw
    jaw_right_reach: float

    @property
    def pixel(self) -> float:
        """The size of one pixel in half mouth widths."""
        return 1.0 / self.frame.half_width

    @property
    def gap_values(self) -> Floats:
        """How far the lips are parted in the picture, at every u of a tabulated curve."""
        return np.asarray(self.lower_inner.values - self.upper_inner.values, np.float32)

    @property
    def gap(self) -> float:
        """The widest parting of the lips in the picture."""
        return float(self.gap_values.max())

    @property
    def upper_thickness(self) -> float:
        return float((self.upper_inner.values - self.upper_outer.values).max())

    @property
    def lower_thickness(self) -> float:
        return float((self.lower_outer.values - self.lower_inner.values).max())

    @property
    def jaw_drop(self) -> float:
        """How far the jaw is already open in the picture.

        Smiling lips part a little with the jaw shut (0.10); beyond that the jaw does 70 % of the parting.
        """
        return max(0.0, 0.70 * (self.gap - 0.10))

    def contact_line(self) -> Floats:
        """Where the lips will meet when they close, in the picture as it is, at every u of a curve.

        Smooth for parted lips: at the corners a wide-open mouth is too steep to be closed column by column.
        """
        line = self.upper_inner.values + np.float32(CLOSING_SHARE_OF_UPPER_LIP) * self.gap_values
        smooth = cv2.GaussianBlur(line.reshape(1, -1), (0, 0), CONTACT_SMOOTHING * SAMPLES_PER_UNIT)[0]
        is_parted = float(smoothstep(self.gap, 0.15, 0.6))
        return floats(line + (smooth - line) * is_parted)


def measure_mouth(picture: Picture, points: FacePoints) -> MouthAnatomy:
    """Turn points into curves and levels, corrected by what the picture shows.

    Raises `ValueError` when the mouth corners coincide.
    """
    frame = CornerFrame.between(points.mouth_left, points.mouth_right)
    upper_inner, lower_inner = _inner_curves(frame, points.upper_lip_inner, points.lower_lip_inner)
    if float((lower_inner - upper_inner).max()) > WIDE_OPEN_GAP:
        rim = trace_open_mouth(picture, frame, upper_inner, lower_inner)
        frame, upper_inner, lower_inner = _curves_of_rim(frame, rim)
    else:
        frame = _with_corner_shadow(frame, float((lower_inner - upper_inner).max()))
        upper_inner, lower_inner = _inner_curves(frame, points.upper_lip_inner, points.lower_lip_inner)
        upper_inner, lower_inner = refine_inner_lips(picture, frame, upper_inner, lower_inner)
    gap = float((lower_inner - upper_inner).max())
    if gap > BOWED_GAP:
        lower_inner = _bowed(lower_inner, float(smoothstep(gap, WIDE_OPEN_GAP, 2 * WIDE_OPEN_GAP)))
    nose_level = min(float(frame.to_local(points.nose_base)[1]), -MIN_NOSE_DISTANCE)
    chin_level = max(float(frame.to_local(points.chin)[1]), MIN_CHIN_DISTANCE)
    upper_outer, lower_outer = (
        TabulatedCurve.through(frame.to_local(lip)).values
        for lip in (points.upper_lip_outer, points.lower_lip_outer)
    )
    upper_outer = _limit_lip(upper_outer, upper_inner, -1.0, MAX_UPPER_LIP_THICKNESS)
    lower_outer = _limit_lip(lower_outer, lower_inner, 1.0, MAX_LOWER_LIP_THICKNESS)
    if gap > WIDE_OPEN_GAP:
        lower_outer = _evenly_thick(lower_outer, lower_inner)
    chin_level = max(chin_level, float(lower_outer.max()) + MIN_NOSE_DISTANCE)
    nose_level = min(nose_level, float(upper_outer.min()) - 0.5 * MIN_NOSE_DISTANCE)
    return MouthAnatomy(
        frame=frame,
        upper_outer=TabulatedCurve(values=upper_outer),
        upper_inner=TabulatedCurve(values=upper_inner),
        lower_inner=TabulatedCurve(values=lower_inner),
        lower_outer=TabulatedCurve(values=lower_outer),
        nose_level=nose_level,
        chin_level=chin_level,
        neck_level=chin_level + max(NECK_BELOW_CHIN, 0.75 * chin_level),
        jaw_left_reach=_jaw_reach(-frame.to_local(points.jaw_left)),
        jaw_right_reach=_jaw_reach(frame.to_local(points.jaw_right)),
    )


def _inner_curves(frame: CornerFrame, upper: Doubles, lower: Doubles) -> tuple[Floats, Floats]:
    """Curves through points in pixels, in the right order."""
    upper_curve, lower_curve = (TabulatedCurve.through(frame.to_local(lip)).values for lip in (upper, lower))
    middle = 0.5 * (upper_curve + lower_curve)
    crossed = upper_curve > lower_curve
    return np.where(crossed, middle, upper_curve), np.where(crossed, middle, lower_curve)


def _with_corner_shadow(frame: CornerFrame, gap: float) -> CornerFrame:
    """Move the corners of a parted mouth outwards, so that the shadow in them moves with the lips."""
    growth = 1.0 + CORNER_SHADOW * min(gap / WIDE_OPEN_GAP, 1.0)
    half = growth * frame.half_width * frame.u_axis
    return CornerFrame.between(frame.centre - half, frame.centre + half)


def _curves_of_rim(frame: CornerFrame, rim: Doubles) -> tuple[CornerFrame, Floats, Floats]:
    """Hang a new frame between the outermost points of the rim and split the rim there into two lips."""
    left, right = sorted((int(rim[:, 0].argmin()), int(rim[:, 0].argmax())))
    x, y = frame.to_picture(rim[:, 0].astype(np.float32), rim[:, 1].astype(np.float32))
    pixels = np.stack([x, y], axis=-1).astype(np.float64)
    one_side, other_side = pixels[left : right + 1], np.concatenate([pixels[right:], pixels[: left + 1]])
    upper, lower = sorted((one_side, other_side), key=lambda lip: float((lip @ frame.v_axis).mean()))
    ends = pixels[[left, right]]
    ends = ends[np.argsort(ends @ frame.u_axis)]
    new_frame = _with_corner_shadow(CornerFrame.between(ends[0], ends[1]), WIDE_OPEN_GAP)
    return new_frame, *_inner_curves(new_frame, upper, lower)


def _bowed(lower_inner: Floats, shouting: float) -> Floats:
    """Straighten the dents of an open mouth's lower edge: where teeth stand before the lip it is found too high.

    In a shout (1; 0: none) the edge is at least as full as half an ellipse: cheek teeth hide it at the sides.
    """
    u = TabulatedCurve.sample_positions()
    between = np.abs(u) <= 1.0
    hull = cv2.convexHull(np.stack([u[between], lower_inner[between]], axis=-1))[:, 0]
    hull = hull[np.argsort(hull[:, 0])]
    bowed = np.interp(u, hull[:, 0], hull[:, 1])
    ellipse = ELLIPSE_SHARE * float(bowed.max()) * np.sqrt(np.clip(1.0 - u**2, 0.0, 1.0))
    bowed += shouting * np.maximum(ellipse - bowed, 0.0)
    return floats(np.where(between, bowed, 0.0))


def _jaw_reach(local_point: Doubles) -> float:
    return float(np.clip(local_point[0], MIN_JAW_REACH, MAX_JAW_REACH))


def _evenly_thick(outer: Floats, inner: Floats) -> Floats:
    """Let the lower lip of a shout be as thick at its slanting sides as in the middle.

    Outer points of a shout are measured too far inside at the sides, where the lip runs almost down.
    """
    u = TabulatedCurve.sample_positions()
    middle = float(np.median((outer - inner)[np.abs(u) < 0.3]))
    thickness = SIDE_THICKNESS * middle * slant(inner, u) * np.sqrt(np.clip(1.0 - u**4, 0.0, 1.0))
    return floats(np.maximum(outer, inner + thickness))


def _limit_lip(outer: Floats, inner: Floats, side: float, thickest: float) -> Floats:
    """Keep the outer border of a lip (`side` -1: upper, 1: lower) at a believable distance from its edge."""
    u = TabulatedCurve.sample_positions()
    taper = np.sqrt(np.clip(1.0 - np.abs(u) ** 2.5, 0.0, 1.0))
    thickness = np.clip(side * (outer - inner), MIN_LIP_THICKNESS * taper, thickest * taper)
    return np.asarray(inner + side * thickness, np.float32)

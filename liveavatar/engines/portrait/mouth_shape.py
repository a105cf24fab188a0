"""What a mouth command does to the lips and the jaw: every column of the mouth, in local units.

A *column* is a line of constant u in the portrait. For each one this file says where the lip edges, the lip
borders and the chin are now; `mouth_warp.py` turns that into a picture. Lengths are in half mouth widths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from liveavatar.engines.portrait.geometry import Floats, TabulatedCurve, slant, smoothstep
from liveavatar.engines.portrait.motion import MOUTH_CHANNELS
from liveavatar.engines.portrait.mouth_anatomy import MouthAnatomy

# Opening. A gap of 0.8 half widths is a loud "ah"; the root keeps the first opening visible.
SMALLEST_GAP, GAP_RANGE, GAP_ONSET_POWER = 0.10, 0.72, 0.35
UPPER_LIP_SHARE = 0.34  # of an opening; the jaw does the rest
JAW_RANGE = 0.62  # chin drop at jaw = 1
CORNER_JAW_SHARE, MIDDLE_JAW_SHARE = 0.33, 0.14  # how much of the jaw's drop corners and upper lip follow
STRAIGHTENING_ROUND, STRAIGHTENING_JAW = 0.85, 0.60  # a smiling line of the lips straightens with both
MAX_STRAIGHTENED = 0.22  # of the line's bow; a deeper one is a grin drawn that way, which stays one

# The opening's outline: powers of a lens. The upper lip lifts in the middle, the lower hangs; rounded lips stay in
# touch at both sides, and what is open between them is nearly an ellipse.
UPPER_POINTEDNESS, LOWER_POINTEDNESS, ROUND_POINTEDNESS = 1.15, 0.85, 0.75
ROUND_IN_TOUCH = 0.30  # share of each half of rounded lips that stays in touch ...
OPEN_PARTS_SIDES = 0.6  # ... less where the mouth is wide open

# Width. Measured on speakers: spread lips are about a tenth wider, rounded ones a quarter narrower.
WIDENING, NARROWING, ROUNDING, SMILE_WIDENING = 0.11, 0.16, 0.28, 0.05
JAW_NARROWING = 0.06  # an open jaw pulls the corners in ...
JAW_HINDERS_ROUNDING = 0.3  # ... and leaves less for rounding them
CORNER_LIFT_SMILE, CORNER_LIFT_WIDE = 0.15, 0.035
ROUND_STOPS_SMILE = 0.7  # nobody grins at an "oo"

# Lips.
PRESS_ROLL = 0.34  # part of the lip that rolls inwards when pressed
FV_LOWER_ROLL = 0.45  # the lower lip tucks under the upper teeth
FV_UPPER_LIFT, FV_GAP = 0.06, 0.05
TEETH_UPPER_LIFT, TEETH_LOWER_DROP = 0.05, 0.06  # "s" bares the teeth a little
LEAST_LIP = 0.02  # lips keep a little thickness at the corners, where their curves meet
ROUND_PROTRUSION = 0.18  # rounded lips come forward and look thicker ...
ROUND_SIDE_FULLNESS = 0.75  # ... most of all at both sides of the opening


@dataclass(frozen=True, kw_only=True)
class MouthCommand:
    """One frame's wish, clipped to the ranges of `MOUTH_CHANNELS`."""

    jaw: float
    open: float
    wide: float
    round: float
    press: float
    fv: float
    teeth: float
    tongue: float
    smile: float

    @classmethod
    def from_channels(cls, mouth: Floats, smile: float) -> MouthCommand:
        """Raises `ValueError` unless `mouth` has one value per channel."""
        if np.shape(mouth) != (len(MOUTH_CHANNELS),):
            raise ValueError(f"mouth must have shape ({len(MOUTH_CHANNELS)},), got {np.shape(mouth)}")
        values = dict(zip(MOUTH_CHANNELS, np.nan_to_num(mouth).astype(float).tolist(), strict=True))
        limited = {
            name: min(max(value, -1.0 if name == "wide" else 0.0), 1.2) for name, value in values.items()
        }
        return cls(**limited, smile=min(max(smile, 0.0), 1.0))

    @property
    def width_scale(self) -> float:
        """Mouth width compared with the portrait's."""
        spread = WIDENING * max(self.wide, 0.0) + SMILE_WIDENING * self.smile - JAW_NARROWING * self.jaw
        narrowed = NARROWING * max(-self.wide, 0.0) * (1 - self.round / 1.2)
        rounded = ROUNDING * self.round * (1 - JAW_HINDERS_ROUNDING * min(self.jaw, 1.0))
        return 1.0 + spread - narrowed - rounded

    @property
    def gap(self) -> float:
        """Parting of the lips at the middle."""
        lip_gap = (SMALLEST_GAP + GAP_RANGE * self.open) * float(self.open**GAP_ONSET_POWER)
        lip_gap *= 1.0 - 0.28 * min(self.round, 1.0)
        return lip_gap * (1.0 - min(self.press, 1.0))


@dataclass(frozen=True, kw_only=True)
class MouthColumns:
    """The portrait's mouth, sampled at the columns in use."""

    u: Floats
    upper_outer: Floats
    upper_inner: Floats
    lower_inner: Floats
    lower_outer: Floats
    upper_slant: Floats  # vertical thickness of the lip's band over that across the band
    lower_slant: Floats
    hidden_rim: Floats  # rim of each lip that is never shown: in the portrait it touches teeth
    contact_rim: Floats  # rim of each lip that is hidden once they part: the dark line between closed lips
    contact: Floats  # where closed lips meet
    corner_window: Floats  # 1 between the corners, falling to 0 in the cheeks
    jaw_window: Floats  # how much of the chin's drop this column follows

    @classmethod
    def sample(cls, anatomy: MouthAnatomy, u: Floats) -> MouthColumns:
        left, right = anatomy.jaw_left_reach, anatomy.jaw_right_reach
        contact = TabulatedCurve(values=anatomy.contact_line())
        return cls(
            u=u,
            upper_outer=anatomy.upper_outer(u),
            upper_inner=anatomy.upper_inner(u),
            lower_inner=anatomy.lower_inner(u),
            lower_outer=anatomy.lower_outer(u),
            upper_slant=slant(anatomy.upper_inner(u), u),
            lower_slant=slant(anatomy.lower_inner(u), u),
            hidden_rim=_hidden_rim(anatomy, u),
            contact_rim=_contact_rim(anatomy, u),
            contact=contact(u),
            corner_window=smoothstep(-u, 0.95 * left + 0.2, 0.9) * smoothstep(u, 0.95 * right + 0.2, 0.9),
            jaw_window=smoothstep(-u, 1.24 * left, 0.62 * left) * smoothstep(u, 1.24 * right, 0.62 * right),
        )


@dataclass(frozen=True, kw_only=True)
class LipEdges:
    """The inner lip edges of one frame. Between them is the inside of the mouth; they touch where it is closed.

    `u` counts columns of the portrait: a rounded mouth is narrower in the picture, but its corners are still at
    u = -1 and 1.
    """

    u: Floats
    upper: Floats
    lower: Floats


@dataclass(frozen=True, kw_only=True)
class MouthShape:
    """All columns of one frame: where each row is now, and which row of the portrait it shows."""

    edges: LipEdges
    upper_border: Floats  # outer border of the upper lip, now
    lower_border: Floats
    upper_source: Floats  # row of the portrait shown at the upper lip's edge
    lower_source: Floats
    upper_border_source: Floats  # row of the portrait shown at the upper lip's outer border
    lower_border_source: Floats
    corner_line: Floats  # row to which `MouthColumns.contact` has moved; the lip line in the cheeks
    jaw_drop: Floats  # drop of the chin against the portrait, per column
    chin_drop: float  # the same in the middle
    gap: float


def _hidden_rim(anatomy: MouthAnatomy, u: Floats) -> Floats:
    """Pixels on the border of an open mouth are half tooth; closing over them would draw a bright thread."""
    parted = smoothstep(TabulatedCurve(values=anatomy.gap_values)(u), 0.02, 0.12)
    wide_open = smoothstep(np.float32(anatomy.gap), 0.3, 1.0)
    rim = 0.6 * anatomy.pixel + 0.015 + 0.06 * wide_open
    return np.asarray(parted * rim * smoothstep(np.abs(u), 1.0, 0.85), np.float32)


def _contact_rim(anatomy: MouthAnatomy, u: Floats) -> Floats:
    """The shade between lips that touch in the portrait; carried along by parted ones it would be an outline."""
    touching = smoothstep(TabulatedCurve(values=anatomy.gap_values)(u), 0.06, 0.01)
    return np.asarray(touching * (0.8 * anatomy.pixel + 0.025) * smoothstep(np.abs(u), 1.0, 0.85), np.float32)


def shape_mouth(anatomy: MouthAnatomy, columns: MouthColumns, command: MouthCommand) -> MouthShape:
    """Move lips and jaw of the portrait as commanded."""
    side = np.minimum(np.abs(columns.u), 1.0)
    jaw_room = min(1.0, anatomy.chin_level / 1.35)  # a short chin drops less
    chin_drop = command.jaw * JAW_RANGE * jaw_room - anatomy.jaw_drop
    jaw_drop = np.float32(chin_drop) * columns.jaw_window
    line = columns.contact + _corner_shift(command, columns, jaw_drop, side)
    upper_edge, lower_edge, gap = _part_lips(command, line, side)
    upper_roll, lower_roll = _lip_roll(anatomy, command, side)
    contact_rim = columns.contact_rim * smoothstep(lower_edge - upper_edge, 0.03, 0.15)
    upper_source = columns.upper_inner - upper_roll - 0.9 * columns.hidden_rim - contact_rim
    lower_source = columns.lower_inner + lower_roll + columns.hidden_rim + contact_rim
    upper_border_source = np.minimum(columns.upper_outer, upper_source - LEAST_LIP)
    lower_border_source = np.maximum(columns.lower_outer, lower_source + LEAST_LIP)
    # Lips keep their thickness across: where they slant less than in the portrait they are thinner along v.
    protrusion = 1.0 + np.float32(command.round) * (
        ROUND_PROTRUSION + ROUND_SIDE_FULLNESS * side**2 * (1 - side**2)
    )
    upper_growth = protrusion * np.clip(slant(upper_edge, columns.u) / columns.upper_slant, 0.4, 1.6)
    lower_growth = protrusion * np.clip(slant(lower_edge, columns.u) / columns.lower_slant, 0.4, 1.6)
    return MouthShape(
        edges=LipEdges(u=columns.u, upper=upper_edge, lower=lower_edge),
        upper_border=upper_edge - upper_growth * (upper_source - upper_border_source),
        lower_border=lower_edge + lower_growth * (lower_border_source - lower_source),
        upper_source=upper_source,
        lower_source=lower_source,
        upper_border_source=upper_border_source,
        lower_border_source=lower_border_source,
        corner_line=line,
        jaw_drop=jaw_drop,
        chin_drop=chin_drop,
        gap=gap,
    )


def _corner_shift(command: MouthCommand, columns: MouthColumns, jaw_drop: Floats, side: Floats) -> Floats:
    """The lips' line follows the jaw, mostly at the corners, and straightens; smiling lifts the corners."""
    with_jaw = jaw_drop * (MIDDLE_JAW_SHARE + (CORNER_JAW_SHARE - MIDDLE_JAW_SHARE) * side**2)
    sag = float(np.clip(np.interp(0.0, columns.u, columns.contact), -MAX_STRAIGHTENED, MAX_STRAIGHTENED))
    straightening = STRAIGHTENING_ROUND * command.round + STRAIGHTENING_JAW * command.jaw
    smile = command.smile * (1.0 - ROUND_STOPS_SMILE * min(command.round, 1.0))
    drop = min(straightening, 1.0) * (1.0 - smile) * sag
    lift = CORNER_LIFT_SMILE * smile + CORNER_LIFT_WIDE * max(command.wide, 0.0)
    return np.asarray(with_jaw + np.float32(drop - lift) * side**2 * columns.corner_window, np.float32)


def _part_lips(command: MouthCommand, line: Floats, side: Floats) -> tuple[Floats, Floats, float]:
    """Upper edge, lower edge and middle gap. The opening is pointed at the corners, oval when rounded."""
    rounding = min(command.round, 1.0)
    in_touch = ROUND_IN_TOUCH * rounding * (1.0 - OPEN_PARTS_SIDES * min(command.open, 1.0))
    lens = np.clip(1.0 - (side / (1.0 - in_touch)) ** 2.2, 0.0, 1.0)
    upper_profile = lens ** (UPPER_POINTEDNESS + (ROUND_POINTEDNESS - UPPER_POINTEDNESS) * rounding)
    lower_profile = lens ** (LOWER_POINTEDNESS + (ROUND_POINTEDNESS - LOWER_POINTEDNESS) * rounding)
    free = 1.0 - min(command.press, 1.0)
    upper_lift = UPPER_LIP_SHARE * command.gap
    lower_drop = command.gap - upper_lift
    upper_lift += free * (TEETH_UPPER_LIFT * command.teeth + FV_UPPER_LIFT * command.fv)
    lower_drop += free * (TEETH_LOWER_DROP * command.teeth + (FV_GAP - FV_UPPER_LIFT) * command.fv)
    upper = line - np.float32(upper_lift) * upper_profile
    lower = line + np.float32(lower_drop) * lower_profile
    return (
        np.asarray(upper, np.float32),
        np.asarray(np.maximum(lower, upper), np.float32),
        max(0.0, upper_lift + lower_drop),
    )


def _lip_roll(anatomy: MouthAnatomy, command: MouthCommand, side: Floats) -> tuple[Floats, Floats]:
    """How much of each lip turns inwards, out of sight."""
    towards_corner = np.clip(1.0 - side**6, 0.0, 1.0)
    firmness = 1.0 - 0.6 * float(
        smoothstep(anatomy.gap, 0.3, 1.0)
    )  # a shout's lips are stretched thin already
    pressed = firmness * PRESS_ROLL * min(command.press, 1.0) * towards_corner
    tucked = FV_LOWER_ROLL * min(command.fv, 1.0) * np.clip(1.0 - side**2.3, 0.0, 1.0)
    upper = pressed * anatomy.upper_thickness * 0.8 * (1 - side**2)
    lower = np.minimum(pressed + tucked, 0.6) * anatomy.lower_thickness * 0.8 * (1 - side**2)
    return np.asarray(upper, np.float32), np.asarray(lower, np.float32)

"""Procedural mouths: lips from pressed to screaming, with teeth, gums and tongue behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from liveavatar.engines.portrait.training.face_canvas import (
    Colour,
    Dice,
    FaceCanvas,
    Floats,
    between_curves,
)

MARKED = np.array([-0.78, -0.52, -0.26, 0, 0.26, 0.52, 0.78])  # where lip points lie, in half mouth widths
DRAWN = np.linspace(-1, 1, 33)


@dataclass(frozen=True, kw_only=True)
class Mouth:
    """A mouth's shape in face coordinates."""

    y: float
    half_width: float
    gap: float  # between the inner lip edges, at the middle
    gap_above: float  # share of the gap that lies above the line of the corners
    smile: float  # how far the corners are raised
    upper_thickness: float
    lower_thickness: float
    upper_power: float  # 2 is a parabola, more is squarer
    lower_power: float
    cupid_bow: float

    def curves(self, u: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the y of upper outer, upper inner, lower inner and lower outer edge at u in -1..1."""
        upper = np.clip(1 - np.abs(u) ** self.upper_power, 0, 1)
        lower = np.clip(1 - np.abs(u) ** self.lower_power, 0, 1)
        corner_line = self.y - self.smile * u**2
        upper_inner = corner_line - self.gap * self.gap_above * upper
        lower_inner = corner_line + self.gap * (1 - self.gap_above) * lower
        bow = self.cupid_bow * np.exp(-((u / 0.22) ** 2)) * self.upper_thickness
        upper_outer = upper_inner - self.upper_thickness * upper**0.9 + bow
        lower_outer = lower_inner + self.lower_thickness * lower**0.9
        return upper_outer, upper_inner, lower_inner, lower_outer

    def points(self) -> Floats:
        """Return the 30 marked points: corners, then the four curves left to right."""
        corners = [
            (-self.half_width, self.y - self.smile),
            (self.half_width, self.y - self.smile),
        ]
        curves = [np.stack([MARKED * self.half_width, y], 1) for y in self.curves(MARKED)]
        return np.concatenate([np.array(corners), *curves]).astype(np.float32)

    def lowest(self) -> float:
        return self.y + self.gap * (1 - self.gap_above) + self.lower_thickness


def roll_mouth(dice: Dice, *, y: float, cartoon: bool, chin: float) -> Mouth:
    """Choose a mouth that ends above the chin: 35 % closed, 32 % ajar, 17 % open, 16 % shouting."""
    half_width = dice.between(0.27, 0.47) * (1.25 if cartoon and dice.chance(0.3) else 1)
    style = dice.rng.random()
    if style < 0.35:
        gap = 0.0
    elif style < 0.67:
        gap = dice.between(0.04, 0.35) * half_width
    elif style < 0.84:
        gap = dice.between(0.35, 1.2) * half_width
    else:
        gap = dice.between(1.0, 2.0) * half_width
    squarest = 3.2 if gap < half_width else 4.5  # a scream has rounded, almost upright corners
    gap_above = 0.35 if gap < 0.3 * half_width else dice.between(0.15, 0.45)
    stretched = 1.0 if gap < 0.8 * half_width else dice.between(0.5, 1.0)  # lips thin when stretched
    upper_thickness = half_width * dice.between(0.08, 0.36) * stretched
    lower_thickness = half_width * dice.between(0.10, 0.46) * stretched
    room = (chin - 0.10 - lower_thickness - y) / (1 - gap_above)
    return Mouth(
        y=y,
        half_width=half_width,
        gap=float(np.clip(gap, 0, max(0.0, room))),
        gap_above=gap_above,
        smile=dice.between(-0.14, 0.38) * half_width,
        upper_thickness=upper_thickness,
        lower_thickness=lower_thickness,
        upper_power=dice.between(1.6, squarest),
        lower_power=dice.between(1.6, squarest),
        cupid_bow=dice.between(0, 0.5),
    )


def draw_mouth(canvas: FaceCanvas, mouth: Mouth, skin: Colour) -> None:
    """Paint lips, the inside if it shows, and the shadows around."""
    dice = canvas.dice
    upper_outer, upper_inner, lower_inner, lower_outer = mouth.curves(DRAWN)
    x = DRAWN * mouth.half_width
    if dice.chance(0.7):
        lips = skin * np.array([dice.between(0.6, 0.95), dice.between(0.5, 0.9), dice.between(0.8, 1.1)])
    else:
        lips = dice.colour((165, 185), (0.4, 0.9), (0.3, 0.9))
    opacity = dice.between(0.15, 1.0) if dice.chance(0.8) else dice.between(0, 0.2)
    for outer, inner, brightness in (
        (upper_outer, upper_inner, dice.between(0.75, 1.0)),
        (lower_inner, lower_outer, dice.between(0.9, 1.15)),
    ):
        canvas.fill(
            between_curves(x, outer, inner), lips * brightness, opacity=opacity, blur=dice.between(0.3, 1.5)
        )
    canvas.shade(
        dice.between(-0.1, 0.1) * mouth.half_width,
        mouth.lowest() - 0.5 * mouth.lower_thickness,
        (0.4 * mouth.half_width, 0.3 * mouth.lower_thickness + 0.02),
        dice.between(0, 0.35),
    )
    if mouth.gap > 0.012:
        _draw_inside(canvas, mouth, skin)
        canvas.stroke(
            np.stack([x, upper_inner], 1),
            lips * dice.between(0.2, 0.7),
            1,
            opacity=dice.between(0.1, 0.8),
            blur=0.5,
        )
        if dice.chance(0.4):  # the lit or shaded rim of the lower lip
            rim = lips * dice.between(0.4, 1.3)
            canvas.stroke(np.stack([x, lower_inner], 1), rim, 1, opacity=dice.between(0.1, 0.6), blur=0.5)
    else:
        canvas.stroke(
            np.stack([x, upper_inner], 1),
            lips * dice.between(0.15, 0.6),
            dice.between(1, 2.6),
            opacity=dice.between(0.4, 1),
            blur=dice.between(0.3, 1),
        )
    if dice.chance(0.5):
        for side in (-1, 1):
            canvas.shade(
                side * mouth.half_width * 1.02, mouth.y - mouth.smile, (0.05, 0.05), -dice.between(0.1, 0.5)
            )


def _draw_inside(canvas: FaceCanvas, mouth: Mouth, skin: Colour) -> None:
    """Paint cavity, tongue, lower teeth and upper teeth, back to front, then cut them off at the lips."""
    dice = canvas.dice
    _, upper_inner, lower_inner, _ = mouth.curves(DRAWN)
    outside = canvas.image.copy()
    opening = canvas.fill(
        between_curves(DRAWN * mouth.half_width, upper_inner, lower_inner),
        dice.colour((-8, 12), (0.3, 0.9), (0.02, 0.3)),
        blur=dice.between(0.2, 0.8),
    )
    light = float(np.clip(skin.max() / 200, 0.5, 1))
    teeth = dice.colour((8, 25), (0, 0.3), (0.5, 1)) * light
    gums = dice.colour((168, 184), (0.3, 0.7), (0.35, 0.9)) * light
    wide_open = mouth.gap > 0.5 * mouth.half_width
    if mouth.gap > 0.25 * mouth.half_width and dice.chance(0.75 if wide_open else 0.5):
        _draw_tongue(canvas, mouth, light)
    if mouth.gap > 0.12 * mouth.half_width and dice.chance(0.6 if wide_open else 0.3):
        tall = dice.between(0.06, 0.32) * mouth.half_width
        _draw_teeth(canvas, mouth, teeth * dice.between(0.8, 1.05), gums, tall, rising=True)
    if dice.chance(0.8):
        share = dice.between(0.2, 1.3) if not wide_open else dice.between(0.08, 0.4)
        _draw_teeth(canvas, mouth, teeth, gums, share * mouth.gap, rising=False)
    if dice.chance(0.5):  # the upper lip shades what lies behind it
        canvas.shade(
            0,
            float(upper_inner[len(upper_inner) // 2]),
            (mouth.half_width, 0.25 * mouth.gap + 0.02),
            -dice.between(0.1, 0.5),
        )
    canvas.blend_from(outside, opening)


def _draw_tongue(canvas: FaceCanvas, mouth: Mouth, light: float) -> None:
    """Paint a tongue lying on the floor of the mouth; in a shout it fills most of the lower half."""
    dice = canvas.dice
    floor = mouth.y + mouth.gap * (1 - mouth.gap_above)
    tall = mouth.gap * (
        dice.between(0.2, 0.75) if mouth.gap > 0.8 * mouth.half_width else dice.between(0.15, 0.45)
    )
    wide = mouth.half_width * dice.between(0.45, 0.85)
    colour = dice.colour((166, 184), (0.25, 0.7), (0.4, 0.95)) * light
    centre = (dice.between(-0.1, 0.1) * mouth.half_width, floor - 0.35 * tall)
    canvas.ellipse(centre, (wide, tall), colour, blur=dice.between(0.3, 1.2))
    if dice.chance(0.6):
        groove = np.array([(centre[0], centre[1] - 0.8 * tall), (centre[0], floor)])
        canvas.stroke(groove, colour * 0.7, dice.between(1, 3), opacity=dice.between(0.1, 0.6), blur=1)
    if dice.chance(0.6):
        canvas.shade(
            centre[0] + dice.between(-0.5, 0.5) * wide,
            centre[1] - dice.between(0, 0.5) * tall,
            (0.3 * wide, 0.3 * tall),
            dice.between(0.1, 0.6),
        )


def _draw_teeth(
    canvas: FaceCanvas, mouth: Mouth, teeth: Colour, gums: Colour, tall: float, *, rising: bool
) -> None:
    """Paint one row: it hangs from the upper lip, or rises from the lower one (`rising`)."""
    dice = canvas.dice
    _, upper_inner, lower_inner, _ = mouth.curves(DRAWN)
    seen = np.abs(DRAWN) < dice.between(0.4 if rising else 0.6, 0.97)
    u = DRAWN[seen]
    x = u * mouth.half_width
    direction = -1 if rising else 1
    lip_edge = (lower_inner if rising else upper_inner)[seen]
    biting = lip_edge + direction * tall * np.clip(1 - np.abs(u) ** 3, 0, 1)
    canvas.fill(between_curves(x, lip_edge, biting), teeth, blur=dice.between(0.2, 0.8))
    if dice.chance(0.6):
        spacing = dice.between(0.14, 0.25)
        for place in np.arange(-0.9, 0.9, spacing):
            root, tip = np.interp(place, u, lip_edge), np.interp(place, u, biting)
            between_teeth = np.array([(place * mouth.half_width, root), (place * mouth.half_width, tip)])
            canvas.stroke(between_teeth, teeth * 0.6, 1, opacity=dice.between(0.1, 0.7), blur=0.4)
    if dice.chance(0.2):
        gum_edge = lip_edge + direction * tall * dice.between(0.15, 0.5)
        canvas.fill(between_curves(x, lip_edge, gum_edge), gums, opacity=dice.between(0.5, 1), blur=0.6)

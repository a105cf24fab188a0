"""Procedural eyes, eyebrows, spectacles and goggles."""

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

MARKED = np.array([-0.66, -0.33, 0, 0.33, 0.66])  # where lid points lie, in half eye widths
DRAWN = np.linspace(-1, 1, 21)


@dataclass(frozen=True, kw_only=True)
class Eyes:
    """The shape that both eyes share, in face coordinates."""

    y: float
    spacing: float  # from the middle of the face to the middle of an eye
    half_width: float
    upper_height: float
    lower_height: float
    tilt: float  # outer corners up (negative) or down, in half widths
    upper_power: float
    lower_power: float
    gaze: tuple[float, float]

    def lids(self, side: int, u: Floats) -> tuple[Floats, Floats]:
        """Return the y of upper and lower lid at u in -1..1, for the left (-1) or right (1) eye."""
        corner_line = self.y + self.tilt * side * self.half_width * u
        upper = corner_line - self.upper_height * np.clip(1 - np.abs(u) ** self.upper_power, 0, 1)
        lower = corner_line + self.lower_height * np.clip(1 - np.abs(u) ** self.lower_power, 0, 1)
        return upper, lower

    def iris(self, side: int) -> tuple[float, float]:
        opening = min(self.upper_height + self.lower_height, self.half_width)
        x = side * self.spacing + self.gaze[0] * 0.55 * self.half_width
        y = self.y - 0.4 * (self.upper_height - self.lower_height) + self.gaze[1] * 0.4 * opening
        return x, y

    def points(self, side: int) -> Floats:
        """Return 13 points: corners, upper lid, lower lid (each left to right), iris."""
        slope = self.tilt * side * self.half_width
        middle = side * self.spacing
        corners = [(middle - self.half_width, self.y - slope), (middle + self.half_width, self.y + slope)]
        x = MARKED * self.half_width + middle
        upper, lower = self.lids(side, MARKED)
        rows = [
            np.array(corners),
            np.stack([x, upper], 1),
            np.stack([x, lower], 1),
            np.array([self.iris(side)]),
        ]
        return np.concatenate(rows).astype(np.float32)


def roll_eyes(dice: Dice, *, cartoon: bool) -> Eyes:
    """Choose a pair of eyes; one in seven is nearly shut, cartoon eyes may be huge."""
    spacing = dice.between(0.36, 0.48)
    half_width = dice.between(0.165, 0.235) * (dice.between(1, 1.9) if cartoon else 1)
    half_width = min(half_width, spacing - 0.04)
    openness = 1.0 if dice.chance(0.86) else dice.between(0.05, 0.5)
    widest = 1.0 if cartoon and dice.chance(0.35) else 0.62  # some cartoon eyes are round discs
    return Eyes(
        y=dice.between(-0.32, -0.02),
        spacing=spacing,
        half_width=half_width,
        upper_height=half_width * dice.between(0.22, widest) * (1.25 if cartoon else 1) * openness,
        lower_height=half_width * dice.between(0.08, 0.6 * widest) * (1.3 if cartoon else 1) * openness**0.5,
        tilt=dice.between(-0.14, 0.10),
        upper_power=dice.between(1.7, 3.2),
        lower_power=dice.between(1.6, 3.0),
        gaze=(dice.between(-0.4, 0.4), dice.between(-0.25, 0.3)),
    )


def draw_eyes(canvas: FaceCanvas, eyes: Eyes, skin: Colour) -> None:
    """Paint both eyes: white, iris, pupil, glint, lashes, lid fold."""
    dice = canvas.dice
    white = np.ones(3, np.float32) * dice.between(150, 250) * np.clip(skin.max() / 190 + 0.15, 0.5, 1)
    iris = dice.colour((5, 130), (0.2, 0.9), (0.08, 0.8))
    iris_radius = eyes.half_width * dice.between(0.38, 0.56)
    lash = dice.colour((0, 20), (0, 0.5), (0, 0.3))
    for side in (-1, 1):
        upper, lower = eyes.lids(side, DRAWN)
        x = DRAWN * eyes.half_width + side * eyes.spacing
        lids = canvas.image.copy()
        opening = canvas.fill(between_curves(x, upper, lower), white, blur=dice.between(0.2, 0.6))
        _draw_iris(canvas, eyes.iris(side), iris_radius, iris)
        height = eyes.upper_height + eyes.lower_height + 1e-3
        depth = np.clip((canvas.y - (eyes.y - eyes.upper_height)) / height, 0, 1)
        canvas.image *= (1 - 0.35 * (1 - depth) * opening)[..., None]  # the lid's shadow on the eyeball
        canvas.blend_from(lids, opening)
        canvas.stroke(
            np.stack([x, upper], 1),
            lash,
            dice.between(1, 3.2),
            opacity=dice.between(0.4, 1),
            blur=dice.between(0.2, 0.7),
        )
        if dice.chance(0.6):
            edge = 0.5 * lash + 0.4 * skin
            canvas.stroke(np.stack([x, lower], 1), edge, 1, opacity=dice.between(0.1, 0.8), blur=0.5)
        if dice.chance(0.6):
            fold = np.stack([x, upper - dice.between(0.03, 0.09)], 1)
            canvas.stroke(
                fold,
                skin * dice.between(0.5, 0.8),
                dice.between(1, 2),
                opacity=dice.between(0.2, 0.7),
                blur=dice.between(0.4, 1.2),
            )


def _draw_iris(canvas: FaceCanvas, centre: tuple[float, float], radius: float, colour: Colour) -> None:
    dice = canvas.dice
    canvas.ellipse(centre, (radius, radius), colour)
    canvas.ellipse(centre, (0.5 * radius, 0.5 * radius), colour * 0.15)
    if dice.chance(0.8):
        glint = (centre[0] + dice.between(-0.4, 0.4) * radius, centre[1] - dice.between(0, 0.5) * radius)
        size = dice.between(0.1, 0.25) * radius
        canvas.ellipse(glint, (size, size), (250, 250, 250))


def draw_brow(canvas: FaceCanvas, eyes: Eyes, side: int, hair: Colour, *, cartoon: bool) -> Floats:
    """Paint one eyebrow (some faces have none) and return its three points, left to right."""
    dice = canvas.dice
    u = np.linspace(-1, 1, 9)
    half_width = eyes.half_width * dice.between(1.2, 1.6) * (0.8 if eyes.half_width > 0.3 else 1)
    thickness = dice.between(0.02, 0.075) * (1.6 if cartoon else 1)
    y = eyes.y - eyes.upper_height - dice.between(0.10, 0.28)
    line = y - dice.between(-0.06, 0.14) * side * 0.6 * u - 0.05 * (1 - u**2)
    x = u * half_width + side * eyes.spacing
    if dice.chance(0.92):
        canvas.fill(
            between_curves(x, line - 0.7 * thickness, line + 0.7 * thickness),
            hair * dice.between(0.4, 1),
            opacity=dice.between(0.35, 1),
            blur=dice.between(0.3, 1.5),
        )
    marked = np.array([-0.7, 0, 0.7])
    return np.stack([marked * half_width + side * eyes.spacing, np.interp(marked, u, line)], 1).astype(
        np.float32
    )


def draw_spectacles(canvas: FaceCanvas, eyes: Eyes) -> None:
    """Paint two rims, a bridge and the arms."""
    dice = canvas.dice
    colour = dice.colour((0, 180), (0, 0.6), (0, 0.7))
    radius = dice.between(0.26, 0.36)
    angle = np.linspace(0, 2 * np.pi, 40)
    for side in (-1, 1):
        rim = np.stack(
            [
                side * eyes.spacing + 1.1 * radius * np.cos(angle),
                eyes.y + 0.03 + 0.85 * radius * np.sin(angle),
            ],
            1,
        )
        if dice.chance(0.3):
            canvas.fill(rim, dice.colour((0, 180), (0.2, 0.2), (0.1, 0.9)), opacity=dice.between(0.05, 0.35))
        canvas.stroke(rim, colour, dice.between(1, 4))
        arm = [(side * (eyes.spacing + 1.1 * radius), eyes.y), (side * 1.05, eyes.y - 0.05)]
        canvas.stroke(arm, colour, dice.between(1, 3))
    inner = eyes.spacing - 1.1 * radius
    canvas.stroke([(-inner, eyes.y), (inner, eyes.y)], colour, dice.between(1, 3))


def draw_goggles(canvas: FaceCanvas, eyes: Eyes) -> None:
    """Paint one wide pane with a thick frame and a strap, cut out over the nose."""
    dice = canvas.dice
    colour = dice.colour((0, 180), (0, 0.5), (0.02, 0.5))
    angle = np.linspace(0, 2 * np.pi, 60)
    wide = eyes.spacing + dice.between(0.3, 0.45)
    tall = max(dice.between(0.28, 0.4), eyes.upper_height + 0.08)
    x = np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** 0.6 * wide
    y = np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.6 * tall
    nose = np.where(y > 0, np.exp(-((x / 0.16) ** 2)), 0) * dice.between(0.1, 0.25)
    frame = np.stack([x, eyes.y + 0.03 + y - nose], 1)
    canvas.fill(frame, dice.any_colour(darkest=0.2, strongest=0.4), opacity=dice.between(0.05, 0.35))
    canvas.stroke(frame, colour, dice.between(3, 11), blur=dice.between(0.2, 0.8))
    for side in (-1, 1):
        strap = [(side * wide, eyes.y + 0.03), (side * 1.2, eyes.y - 0.03)]
        canvas.stroke(strap, colour, dice.between(6, 16))

"""Procedural faces with exactly known points, the only training data of the landmark net.

Everything is drawn by chance: people, cartoon creatures, painted skin, helmets, goggles, shouting mouths. No
photograph is used. `sample_face` gives a face with its 68 points, `sample_other` a picture that shows none.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.landmark_net import CROP_PIXELS
from liveavatar.engines.portrait.training.face_canvas import Colour, Dice, FaceCanvas, Floats
from liveavatar.engines.portrait.training.face_eyes import (
    Eyes,
    draw_brow,
    draw_eyes,
    draw_goggles,
    draw_spectacles,
    roll_eyes,
)
from liveavatar.engines.portrait.training.face_mouth import Mouth, draw_mouth, roll_mouth
from liveavatar.engines.portrait.training.face_view import Camera, light_head, spoil

TURN = np.linspace(0, 2 * np.pi, 90)


def sample_face(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a crop (128, 128, 3, BGR) and its points (68, 2) in crop pixels; some may lie outside."""
    dice = Dice(seed)
    return _draw_face(dice)


def sample_other(seed: int) -> NDArray[np.uint8]:
    """Return a crop (128, 128, 3, BGR) without a face, or with one far too large, too small or cut off."""
    dice = Dice(seed)
    kind = dice.rng.random()
    if kind < 0.45:
        return _misplaced_face(dice)
    canvas = FaceCanvas(dice)
    _draw_background(canvas)
    if kind < 0.65:
        _draw_blank_head(canvas)
    elif kind < 0.8:
        _draw_writing(canvas)
    else:
        for _ in range(int(dice.rng.integers(3, 25))):
            centre = (dice.between(-1.6, 1.6), dice.between(-1.6, 1.6))
            radii = (dice.between(0.03, 0.6), dice.between(0.03, 0.6))
            canvas.ellipse(
                centre, radii, dice.any_colour(), degrees=dice.between(0, 180), blur=dice.between(0, 2)
            )
        if dice.chance(0.3):
            canvas.image[:] = 128 + 60 * dice.rng.standard_normal(canvas.image.shape)
    return spoil(dice, Camera(dice, nose_y=0.4).picture(canvas))


def _misplaced_face(dice: Dice) -> NDArray[np.uint8]:
    crop, _ = _draw_face(dice)
    upside = dice.between(60, 300) if dice.chance(0.4) else 0.0
    scale = dice.between(2.6, 6) if dice.chance(0.7) else dice.between(0.15, 0.35)
    middle = CROP_PIXELS / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), upside, scale)
    matrix[:, 2] = matrix[:, 2] + dice.rng.uniform(-60, 60, 2)
    moved = cv2.warpAffine(crop, matrix, crop.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
    return np.asarray(moved, np.uint8)


def _draw_blank_head(canvas: FaceCanvas) -> None:
    """A head with neck and hair but without features, or with a few meaningless spots."""
    dice = canvas.dice
    skin, hair = _skin_colour(dice, cartoon=dice.chance(0.4)), dice.any_colour()
    _draw_hair_behind(canvas, hair)
    _draw_body(canvas, skin)
    mask = canvas.fill(_head_outline(dice.between(1.12, 1.5), -dice.between(1.15, 1.6), 2.2), skin, blur=1)
    for _ in range(int(dice.rng.integers(0, 4))):
        centre = (dice.between(-0.8, 0.8), dice.between(-0.9, 1.1))
        canvas.ellipse(centre, (dice.between(0.03, 0.2), dice.between(0.03, 0.2)), dice.any_colour())
    light_head(canvas, mask)


def _draw_writing(canvas: FaceCanvas) -> None:
    """Rows of short strokes."""
    dice = canvas.dice
    ink = dice.any_colour()
    row_height = dice.between(0.1, 0.5)
    for y in np.arange(-1.6, 1.7, row_height):
        for x in np.arange(-1.7, 1.7, row_height * 0.6):
            path = np.array([x, y]) + dice.rng.uniform(0, 0.55 * row_height, (4, 2))
            canvas.stroke(path, ink, dice.between(1, 3))


def _draw_face(dice: Dice) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw back to front, from the background to what covers the face, then look at it from one side."""
    cartoon = dice.chance(0.4)
    canvas = FaceCanvas(dice)
    skin = _skin_colour(dice, cartoon=cartoon)
    hair = (
        dice.colour((0, 30), (0, 0.75), (0.04, 0.85)) if dice.chance(0.85) else dice.any_colour(darkest=0.2)
    )
    chin, top = dice.between(1.12, 1.55), -dice.between(1.15, 1.6)
    jaw_power = dice.between(1.7, 3.4)
    eyes = roll_eyes(dice, cartoon=cartoon)
    nose_y = dice.between(0.26, 0.52)
    mouth_y = max(nose_y + 0.2, dice.between(0.60, 0.86) * min(1, chin / 1.3))
    mouth = roll_mouth(dice, y=mouth_y, cartoon=cartoon, chin=chin)

    _draw_background(canvas)
    _draw_hair_behind(canvas, hair)
    _draw_body(canvas, skin)
    _draw_ears(canvas, skin)
    texture = 1 + dice.between(0, 0.07) * dice.noise(canvas.side, dice.between(6, 60))
    outline = _head_outline(chin, top, jaw_power)
    face_mask = canvas.fill(outline, skin, blur=dice.between(0.4, 2.5), texture=texture)
    _shade_face(canvas, eyes, mouth, nose_y, top)
    _draw_cheek_folds(canvas, mouth, nose_y, skin)
    _draw_nose(canvas, nose_y, skin, cartoon=cartoon)
    if dice.chance(0.3):
        _draw_beard(canvas, mouth, nose_y, chin, hair)
    draw_mouth(canvas, mouth, skin)
    draw_eyes(canvas, eyes, skin)
    brow_colour = hair if dice.chance(0.8) else 0.6 * skin
    brows = [draw_brow(canvas, eyes, side, brow_colour, cartoon=cartoon) for side in (-1, 1)]
    if dice.chance(0.15):
        draw_spectacles(canvas, eyes)
    elif dice.chance(0.06):
        draw_goggles(canvas, eyes)
    light_head(canvas, face_mask)
    _draw_hair_in_front(canvas, eyes, hair, top)
    if dice.chance(0.12):
        centre, radii = (
            (dice.between(-1.2, 1.2), dice.between(-0.9, 1.6)),
            (dice.between(0.1, 0.5), dice.between(0.1, 0.5)),
        )
        canvas.ellipse(centre, radii, dice.any_colour(), degrees=dice.between(0, 180))

    jaw_x = max(0.0, 1 - (mouth.y / chin) ** 2) ** (1 / jaw_power)
    rest = [
        (0, nose_y - 0.1),
        (0, nose_y + 0.02),
        (0, chin),
        (-jaw_x, mouth.y),
        (jaw_x, mouth.y),
        (0, 0.9 * top),
    ]
    drawn = np.concatenate([mouth.points(), eyes.points(-1), eyes.points(1), *brows, np.array(rest)])
    camera = Camera(dice, nose_y=nose_y)
    return spoil(dice, camera.picture(canvas)), camera.points(drawn)


def _skin_colour(dice: Dice, *, cartoon: bool) -> Colour:
    if dice.chance(0.35 if cartoon else 0.05):
        return dice.colour((0, 180), (0.25, 0.8), (0.4, 0.95))
    return dice.colour((3, 17), (0.18, 0.62), (0.28, 1.0))


def _head_outline(chin: float, top: float, jaw_power: float) -> Floats:
    """Return an oval one unit wide each way; `jaw_power` above 2 makes a square jaw."""
    cosine, sine = np.cos(TURN), np.sin(TURN)
    power = 2 / np.where(sine > 0, jaw_power, 2.1)
    x = np.sign(cosine) * np.abs(cosine) ** power
    y = np.where(sine > 0, sine * chin, sine * -top)
    return np.stack([x, y], 1).astype(np.float32)


def _draw_background(canvas: FaceCanvas) -> None:
    dice = canvas.dice
    mix = 1 / (1 + np.exp(-1.5 * dice.noise(canvas.side, dice.between(40, 200))))[..., None]
    canvas.image[:] = dice.any_colour(strongest=0.7) * mix + dice.any_colour(strongest=0.7) * (1 - mix)
    for _ in range(int(dice.rng.integers(0, 8))):
        x, y = dice.between(-1.9, 1.9), dice.between(-1.9, 1.9)
        if dice.chance(0.5):
            wide, tall = dice.between(0.05, 1.7), dice.between(0.05, 2.2)
            canvas.fill([(x, y), (x + wide, y), (x + wide, y + tall), (x, y + tall)], dice.any_colour())
        else:
            radius = dice.between(0.05, 0.7)
            canvas.ellipse((x, y), (radius, radius), dice.any_colour())
    if dice.chance(0.6):
        canvas.image[:] = cv2.GaussianBlur(canvas.image, (0, 0), dice.between(0.5, 7))


def _draw_hair_behind(canvas: FaceCanvas, hair: Colour) -> None:
    dice = canvas.dice
    if not dice.chance(0.8):
        return
    wide = dice.between(1.12, 1.5)
    texture = 1 + 0.25 * dice.noise(canvas.side, 12)
    x = np.cos(TURN) * wide * dice.between(0.95, 1.1)
    y = np.sin(TURN) * dice.between(1.1, 1.5) - dice.between(0.2, 0.45)
    canvas.fill(np.stack([x, y], 1), hair, blur=dice.between(0.3, 3), texture=texture)
    if dice.chance(0.45):
        end = dice.between(1.0, 2.3)
        long_hair = [(-wide, -0.4), (wide, -0.4), (1.05 * wide, end), (-1.05 * wide, end)]
        canvas.fill(long_hair, hair, blur=dice.between(0.5, 4), texture=texture)


def _draw_body(canvas: FaceCanvas, skin: Colour) -> None:
    dice = canvas.dice
    neck = [(-0.55, 0.6), (0.55, 0.6), (0.62, 2.6), (-0.62, 2.6)]
    canvas.fill(neck, skin * dice.between(0.55, 0.9), blur=dice.between(0.5, 3))
    shoulder = dice.between(1.7, 2.2)
    collar = shoulder - dice.between(0.1, 0.4)
    shape = [(-2.6, shoulder + 0.5), (-0.9, shoulder), (-0.45, collar), (0, shoulder + dice.between(0, 0.5))]
    shape += [(0.45, collar), (0.9, shoulder), (2.6, shoulder + 0.5), (2.6, 3), (-2.6, 3)]
    texture = 1 + 0.2 * dice.noise(canvas.side, 30)
    canvas.fill(shape, dice.any_colour(), blur=dice.between(0.3, 2), texture=texture)


def _draw_ears(canvas: FaceCanvas, skin: Colour) -> None:
    dice = canvas.dice
    for side in (-1, 1):
        if dice.chance(0.7):
            centre = (side * (1 + dice.between(0, 0.06)), dice.between(-0.1, 0.15))
            canvas.ellipse(centre, (0.14, dice.between(0.22, 0.34)), skin * dice.between(0.75, 1))


def _shade_face(canvas: FaceCanvas, eyes: Eyes, mouth: Mouth, nose_y: float, top: float) -> None:
    """Eye sockets, cheeks, under the lip, under and beside the nose, forehead."""
    dice = canvas.dice
    for side in (-1, 1):
        canvas.shade(
            side * eyes.spacing, eyes.y - 0.02, (1.7 * eyes.half_width, 0.24), -dice.between(0, 0.35)
        )
        canvas.shade(side * 0.62, 0.38, (0.3, 0.25), dice.between(-0.08, 0.16))
    canvas.shade(0, mouth.lowest() + 0.12, (0.28, 0.07), -dice.between(0, 0.3))
    canvas.shade(0, nose_y + 0.06, (0.2, 0.06), -dice.between(0, 0.35))
    canvas.shade(dice.between(-0.05, 0.05), nose_y - 0.15, (0.07, 0.22), dice.between(-0.03, 0.22))
    canvas.shade(dice.between(-0.2, 0.2), 0.55 * top, (0.5, 0.3), dice.between(-0.1, 0.12))
    canvas.shade(dice.sign() * 0.17, nose_y - 0.2, (0.07, 0.3), -dice.between(0, 0.28))


def _draw_cheek_folds(canvas: FaceCanvas, mouth: Mouth, nose_y: float, skin: Colour) -> None:
    dice = canvas.dice
    for side in (-1, 1):
        if dice.chance(0.5):
            fold = [
                (side * 0.2, nose_y - 0.05),
                (side * 0.33, nose_y + 0.15),
                (side * (mouth.half_width + 0.1), mouth.y + dice.between(-0.05, 0.1)),
            ]
            canvas.stroke(
                fold,
                skin * dice.between(0.5, 0.85),
                dice.between(1, 3),
                opacity=dice.between(0.2, 0.7),
                blur=dice.between(0.6, 2),
            )


def _draw_nose(canvas: FaceCanvas, nose_y: float, skin: Colour, *, cartoon: bool) -> None:
    dice = canvas.dice
    wide = dice.between(0.13, 0.24) * (1.4 if cartoon and dice.chance(0.4) else 1)
    if dice.chance(0.85):
        for side in (-1, 1):
            radii = (0.32 * wide, wide * dice.between(0.14, 0.28))
            canvas.ellipse((side * 0.55 * wide, nose_y - 0.02), radii, skin * dice.between(0.15, 0.6))
    if dice.chance(0.6):
        angle = np.linspace(-0.9, 1.1, 9)
        for side in (-1, 1):
            x = side * (0.85 * wide + 0.05 * np.cos(angle))
            y = nose_y - 0.06 + 0.09 * np.sin(angle)
            canvas.stroke(
                np.stack([x, y], 1),
                skin * dice.between(0.4, 0.8),
                dice.between(1, 2.5),
                opacity=dice.between(0.3, 0.8),
                blur=dice.between(0.3, 1.5),
            )
    if cartoon and dice.chance(0.4):
        canvas.ellipse((0, nose_y - 0.1), (1.1 * wide, 1.1 * wide), skin * dice.between(0.9, 1.15))


def _draw_beard(canvas: FaceCanvas, mouth: Mouth, nose_y: float, chin: float, hair: Colour) -> None:
    """A beard along the jaw that leaves the mouth free, often with a moustache."""
    dice = canvas.dice
    x, y = np.abs(canvas.x), canvas.y
    inside_head = np.sqrt((x / 1.02) ** 2 + (y / chin) ** 2) < 1.06
    low = (y > mouth.y - dice.between(0.1, 0.35)) | (x > dice.between(0.75, 0.95))
    mouth_area = (x < 1.15 * mouth.half_width) & (y > mouth.y - 0.15) & (y < mouth.lowest() + 0.05)
    covered = low & (y > dice.between(-0.1, 0.3)) & inside_head & ~mouth_area
    if dice.chance(0.6):
        upper_lip = mouth.y - mouth.gap * mouth.gap_above - 0.6 * mouth.upper_thickness
        covered |= (x < 1.25 * mouth.half_width) & (y > nose_y + 0.03) & (y < upper_lip)
    mask = cv2.GaussianBlur(covered.astype(np.float32), (0, 0), dice.between(1.5, 5))
    mask = np.clip(mask * dice.between(0.25, 1) * (1 + 0.5 * dice.noise(canvas.side, 6, 2)), 0, 1)
    shades = hair * (1 + 0.2 * dice.noise(canvas.side, 5, 2)[..., None])
    canvas.image += (shades - canvas.image) * mask[..., None]


def _draw_hair_in_front(canvas: FaceCanvas, eyes: Eyes, hair: Colour, top: float) -> None:
    """A fringe, or the hard rim of a hat or helmet, over the forehead but never over the eyes."""
    dice = canvas.dice
    if not dice.chance(0.75):
        return
    x = np.linspace(-1.15, 1.15, 14)
    helmet = dice.chance(0.12)
    edge = top * dice.between(0.45, 0.95) + dice.between(0, 0.5) * np.abs(x) ** dice.between(
        1, 3
    ) * dice.between(-1, 1.6)
    if not helmet:
        edge = edge + 0.1 * dice.rng.standard_normal(14) * dice.between(0, 1)
    if dice.chance(0.25):
        edge = edge + 0.25
    edge = np.minimum(edge, np.where(np.abs(x) < 0.75, eyes.y - 0.12, 9))
    outline = np.concatenate([np.stack([x, edge], 1), [(1.3, top - 0.4), (-1.3, top - 0.4)]])
    if helmet:
        canvas.fill(outline, dice.any_colour(), blur=0.4)
        canvas.stroke(np.stack([x, edge], 1), dice.any_colour(), dice.between(1, 8))
    else:
        canvas.fill(outline, hair, blur=dice.between(0.4, 3), texture=1 + 0.25 * dice.noise(canvas.side, 9))

"""The inside of the mouth lies in the portrait's light."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from liveavatar.engines.portrait.geometry import Floats
from liveavatar.engines.portrait.mouth_anatomy import measure_mouth
from liveavatar.engines.portrait.mouth_interior import TOOTH
from liveavatar.engines.portrait.mouth_light import LUMA, MouthLight, measure_light
from tests.portrait.painted_mouth import PaintedMouth, paint_mouth


def light_of(mouth: PaintedMouth) -> MouthLight:
    return measure_light(mouth.picture, measure_mouth(mouth.picture, mouth.points))


def with_picture(mouth: PaintedMouth, factor: float | Floats) -> PaintedMouth:
    return replace(mouth, picture=np.clip(mouth.picture * factor, 0, 255).astype(np.uint8))


def test_teeth_do_not_glow() -> None:
    for brightness in (0.35, 0.7, 1.0, 1.2):
        light = light_of(with_picture(paint_mouth(), brightness))
        assert light.materials[TOOTH] @ LUMA < 60 + 0.85 * (light.skin @ LUMA)


def test_a_dark_portrait_has_a_dark_inside() -> None:
    bright, dark = light_of(paint_mouth()), light_of(with_picture(paint_mouth(), 0.4))
    assert np.all(dark.materials.mean(axis=1) < 0.75 * bright.materials.mean(axis=1))


def test_teeth_take_the_colour_of_the_portraits_own() -> None:
    mouth = paint_mouth(gap=0.5)
    yellow = mouth.picture.copy()
    is_tooth = (mouth.picture.min(axis=-1) > 190) & (np.ptp(mouth.picture, axis=-1) < 25)
    yellow[is_tooth] = (120, 190, 210)
    blue_over_red = [
        float(light.materials[TOOTH, 0] / light.materials[TOOTH, 2])
        for light in (light_of(mouth), light_of(replace(mouth, picture=yellow)))
    ]
    assert blue_over_red[1] < 0.95 * blue_over_red[0]


def test_dark_skin_in_the_same_light_has_no_yellow_teeth() -> None:
    mouth = paint_mouth()
    darker = with_picture(mouth, np.array([0.30, 0.39, 0.52], np.float32))  # albedo: blue falls more than red
    blue_over_red = [
        float(light_of(m).materials[TOOTH, 0] / light_of(m).materials[TOOTH, 2]) for m in (mouth, darker)
    ]
    assert blue_over_red[1] > 0.82 * blue_over_red[0]
    brightness = [float(light_of(m).materials[TOOTH] @ LUMA) for m in (mouth, darker)]
    assert brightness[1] > 0.6 * brightness[0]


def test_light_from_the_right_is_seen() -> None:
    columns = np.linspace(0.6, 1.2, 400, dtype=np.float32)[None, :, None]
    mouth = paint_mouth()
    lit = replace(mouth, picture=np.clip(mouth.picture * columns, 0, 255).astype(np.uint8))
    assert light_of(lit).sideways > light_of(mouth).sideways + 0.03

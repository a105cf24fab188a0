"""Lip curves corrected by the picture."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from liveavatar.engines.portrait.mouth_anatomy import MAX_LOWER_LIP_THICKNESS, measure_mouth
from tests.portrait.painted_mouth import PaintedMouth, paint_mouth


def shifted_lower_lip(mouth: PaintedMouth, shift: float) -> PaintedMouth:
    """The same picture with the inner edge of the lower lip measured `shift` half widths too low."""
    offset = shift * mouth.frame.half_width * mouth.frame.v_axis
    points = replace(mouth.points, lower_lip_inner=mouth.points.lower_lip_inner + offset)
    return replace(mouth, points=points)


@pytest.mark.parametrize("shift", [-0.08, 0.0, 0.06])
def test_lower_lip_edge_is_found_by_colour(shift: float) -> None:
    mouth = shifted_lower_lip(paint_mouth(gap=0.35), shift)
    anatomy = measure_mouth(mouth.picture, mouth.points)
    middle = np.argmin(np.abs(np.linspace(-1.6, 1.6, 641)))
    assert anatomy.lower_inner.values[middle] == pytest.approx(0.7 * 0.35, abs=0.04)


def test_bare_teeth_are_no_lip_in_a_shout() -> None:
    mouth = shifted_lower_lip(paint_mouth(gap=1.2), -0.15)
    anatomy = measure_mouth(mouth.picture, mouth.points)
    assert anatomy.gap * anatomy.frame.half_width == pytest.approx(1.2 * mouth.frame.half_width, rel=0.08)


def test_corners_of_a_shout_are_found_although_measured_too_far_inside() -> None:
    mouth = paint_mouth(gap=1.2)
    inwards = 0.1 * mouth.frame.half_width * mouth.frame.u_axis
    points = replace(
        mouth.points,
        mouth_left=mouth.points.mouth_left + inwards,
        mouth_right=mouth.points.mouth_right - inwards,
    )
    anatomy = measure_mouth(mouth.picture, points)
    assert anatomy.frame.half_width == pytest.approx(mouth.frame.half_width, rel=0.08)


def test_closed_lips_share_one_edge() -> None:
    mouth = paint_mouth()
    anatomy = measure_mouth(mouth.picture, mouth.points)
    assert anatomy.gap < 0.025
    assert anatomy.jaw_drop == 0.0


def test_a_shadow_at_one_side_does_not_part_closed_lips() -> None:
    mouth = paint_mouth()
    centre = (
        np.rint(mouth.frame.centre - 0.5 * mouth.frame.half_width * mouth.frame.u_axis).astype(int).tolist()
    )
    shaded = mouth.picture.copy()
    cv2.ellipse(shaded, centre, (13, 8), 0, 0, 360, (20, 18, 30), -1)
    assert measure_mouth(shaded, mouth.points).gap < 0.025


def test_lips_are_never_thicker_than_lips() -> None:
    mouth = paint_mouth(gap=0.2)
    far_below = 0.9 * mouth.frame.half_width * mouth.frame.v_axis
    points = replace(mouth.points, lower_lip_outer=mouth.points.lower_lip_outer + far_below)
    anatomy = measure_mouth(mouth.picture, points)
    assert anatomy.lower_thickness <= MAX_LOWER_LIP_THICKNESS + 1e-3


def test_grey_picture_keeps_the_measured_curves() -> None:
    mouth = paint_mouth(gap=0.35)
    grey = np.full_like(mouth.picture, 128)
    anatomy = measure_mouth(grey, mouth.points)
    assert anatomy.gap == pytest.approx(0.35, abs=0.08)


def test_coinciding_corners_are_refused() -> None:
    mouth = paint_mouth()
    with pytest.raises(ValueError, match="coincide"):
        measure_mouth(mouth.picture, replace(mouth.points, mouth_right=mouth.points.mouth_left))

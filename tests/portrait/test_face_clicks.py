"""Face points from clicks: their order, their symmetry, and what the picture adds."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from liveavatar.engines.portrait.clicks import Click, points_from_clicks
from liveavatar.engines.portrait.face_points import FacePoints

SIZE = (401, 301)
EYES = ((0.40, 0.30), (0.60, 0.30))


def clicked(
    *,
    mouth_left: Click = (0.42, 0.6),
    mouth_right: Click = (0.58, 0.6),
    chin: Click = (0.5, 0.8),
    eyes: tuple[Click, ...] = EYES,
    image: NDArray[np.uint8] | None = None,
) -> FacePoints:
    return points_from_clicks(
        mouth_left=mouth_left, mouth_right=mouth_right, chin=chin, eyes=eyes, image_size=SIZE, image_bgr=image
    )


def drawn_creature() -> NDArray[np.uint8]:
    """A green face with one round white eye at (200, 90) and an open dark mouth around (200, 180)."""
    image = np.full((SIZE[1], SIZE[0], 3), (60, 160, 120), np.uint8)
    cv2.circle(image, (200, 90), 24, (240, 240, 240), -1, cv2.LINE_AA)
    cv2.circle(image, (200, 90), 9, (20, 40, 90), -1, cv2.LINE_AA)
    cv2.ellipse(image, (200, 180), (32, 24), 0, 0, 180, (20, 10, 30), -1, cv2.LINE_AA)
    return image


@pytest.mark.parametrize("eyes", [(), EYES[:1], EYES])
def test_curves_come_in_order_and_stay_in_the_picture(eyes: tuple[Click, ...]) -> None:
    points = clicked(eyes=eyes)
    curves = [points.upper_lip_outer, points.upper_lip_inner, points.lower_lip_inner, points.lower_lip_outer]
    for above, below in pairwise(curves):
        assert np.all(above[:, 1] <= below[:, 1])
        assert np.all(np.diff(above[:, 0]) > 0)
    assert len(points.eyes) == len(eyes)
    for eye in points.eyes:
        assert eye.corner_left[0] < eye.upper_lid[0, 0] < eye.upper_lid[4, 0] < eye.corner_right[0]
        assert np.all(eye.upper_lid[:, 1] < eye.lower_lid[:, 1])
        assert eye.brow[1] < eye.upper_lid[:, 1].min()
    assert points.nose_base[1] < points.upper_lip_outer[:, 1].min()
    assert points.head_radius > 0
    everything = np.concatenate([*curves, points.jaw_left[None], points.jaw_right[None]])
    assert np.all((everything >= 0) & (everything <= np.array(SIZE) - 1))


def test_symmetric_clicks_give_a_symmetric_face() -> None:
    points = clicked()
    middle = (SIZE[0] - 1) / 2
    for curve in (
        points.upper_lip_outer,
        points.upper_lip_inner,
        points.lower_lip_inner,
        points.lower_lip_outer,
    ):
        assert np.allclose(curve[:, 0] - middle, middle - curve[::-1, 0])
        assert np.allclose(curve[:, 1], curve[::-1, 1])
    left, right = points.eyes
    assert np.allclose(left.corner_left[0] - middle, middle - right.corner_right[0])


def test_corners_and_eyes_may_come_in_either_order() -> None:
    there, back = clicked(), clicked(mouth_left=(0.58, 0.6), mouth_right=(0.42, 0.6), eyes=EYES[::-1])
    assert np.allclose(there.lower_lip_outer, back.lower_lip_outer)
    assert np.allclose(there.eyes[0].upper_lid, back.eyes[0].upper_lid)


def test_a_tilted_face_gives_tilted_points() -> None:
    upright = clicked(eyes=())
    turn = cv2.getRotationMatrix2D((200.0, 180.0), -15, 1)
    span = np.array(SIZE) - 1

    def turned(click: Click) -> Click:
        x, y = (turn[:, :2] @ (np.array(click) * span) + turn[:, 2]) / span
        return float(x), float(y)

    tilted = clicked(
        mouth_left=turned((0.42, 0.6)), mouth_right=turned((0.58, 0.6)), chin=turned((0.5, 0.8)), eyes=()
    )
    assert np.allclose(upright.transformed(turn).lower_lip_outer, tilted.lower_lip_outer, atol=1e-6)
    assert tilted.head_radius == pytest.approx(upright.head_radius)


def test_the_picture_shows_how_far_the_mouth_is_open() -> None:
    points = clicked(eyes=((0.5, 0.3),), image=drawn_creature())
    assert points.lower_lip_inner[3, 1] == pytest.approx(204, abs=3)
    assert points.upper_lip_inner[3, 1] == pytest.approx(180, abs=3)


def test_a_nose_beside_the_mouth_is_no_part_of_it() -> None:
    """In a broad grin the opening and the nose run into each other at the corners."""
    image, shade = drawn_creature(), (37, 73, 68)  # nearer to the opening than to the skin
    cv2.ellipse(image, (200, 172), (24, 4), 0, 0, 360, shade, -1, cv2.LINE_AA)
    cv2.line(image, (174, 184), (177, 172), shade, 4, cv2.LINE_AA)
    points = clicked(eyes=((0.5, 0.3),), image=image)
    assert points.upper_lip_inner[3, 1] == pytest.approx(180, abs=4)
    assert points.lower_lip_inner[3, 1] == pytest.approx(204, abs=4)


def test_the_picture_shows_how_large_a_single_eye_is() -> None:
    (eye,) = clicked(eyes=((0.5, 0.3),), image=drawn_creature()).eyes
    assert eye.corner_left[0] == pytest.approx(176, abs=4)
    assert eye.corner_right[0] == pytest.approx(224, abs=4)
    assert eye.upper_lid[2, 1] == pytest.approx(66, abs=4)


def test_a_plain_picture_gives_the_usual_face() -> None:
    plain = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
    assert np.allclose(clicked(image=plain).lower_lip_inner, clicked().lower_lip_inner)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mouth_right": (0.42, 0.6)}, "apart"),
        ({"chin": (0.5, 0.4)}, "chin"),
        ({"chin": (0.5, 1.2)}, "fractions"),
        ({"eyes": ((0.5, 0.9),)}, "above the mouth"),
        ({"eyes": ((0.5, 0.3), (0.5, 0.3))}, "same place"),
        ({"eyes": ((0.4, 0.3), (0.5, 0.3), (0.6, 0.3))}, "at most two"),
        ({"mouth_left": (float("nan"), 0.6)}, "fractions"),
    ],
)
def test_clicks_that_form_no_face_are_refused(wrong: dict[str, Click], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clicked(**wrong)  # type: ignore[arg-type]

"""Lids, gaze and brows: what they must change, and what they must leave alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from liveavatar.engines.portrait.eyes import EyeRenderer
from liveavatar.engines.portrait.face_points import EyePoints, FacePoints
from liveavatar.engines.portrait.motion import FramePose
from tests.portrait.drawn_face import SKIN, drawn_face

Picture = NDArray[np.uint8]


def drawn(pose: FramePose) -> tuple[Picture, Picture, FacePoints]:
    image, points = drawn_face(720, 400, radius=110)
    canvas = image.copy()
    EyeRenderer(image, points).draw(canvas, pose)
    return image, canvas, points


def opening(picture: Picture, eye: EyePoints) -> NDArray[np.float64]:
    """The pixels well inside the open eye."""
    x, y = (eye.corner_left + eye.corner_right) / 2
    half_width = (eye.corner_right - eye.corner_left)[0] / 2
    rows = slice(int(y - 0.25 * half_width), int(y + 0.25 * half_width))
    return picture[rows, int(x - 0.5 * half_width) : int(x + 0.5 * half_width)].astype(float)


def test_resting_eyes_leave_the_picture_untouched() -> None:
    image, canvas, _ = drawn(FramePose())
    assert np.array_equal(image, canvas)


def test_closed_lids_are_skin_without_white_or_iris() -> None:
    _, canvas, points = drawn(FramePose(blink=1.0))
    for eye in points.eyes:
        lid = opening(canvas, eye)
        assert np.abs(lid - np.array(SKIN)).max() < 60
        assert lid.std(axis=(0, 1)).max() < 16, "the lid should be smooth"


def test_closed_eye_shows_a_line_of_lashes_below_its_middle() -> None:
    _, canvas, points = drawn(FramePose(blink=1.0))
    for eye in points.eyes:
        x = int((eye.corner_left + eye.corner_right)[0] / 2)
        middle, lower = eye.corner_left[1], eye.lower_lid[2, 1]
        top = int(middle) - 8
        column = canvas[top : int(lower) + 12, x].mean(axis=1)
        darkest = int(np.argmin(column)) + top
        assert middle < darkest <= lower + 2
        assert column.min() < 0.85 * np.mean(SKIN)


def test_lids_close_gradually() -> None:
    def white(blink: float) -> float:
        _, canvas, points = drawn(FramePose(blink=blink))
        return float(np.mean([(opening(canvas, eye).min(axis=2) > 215).mean() for eye in points.eyes]))

    whites = [white(blink) for blink in (0.0, 0.3, 0.6, 1.0)]
    assert whites == sorted(whites, reverse=True)
    assert whites[0] > 0.1
    assert whites[-1] == 0


@pytest.mark.parametrize("gaze", [(0.25, 0.0), (-0.25, 0.0), (0.0, 0.15), (0.0, -0.15)])
def test_gaze_moves_the_iris_and_nothing_outside_the_opening(gaze: tuple[float, float]) -> None:
    image, canvas, points = drawn(FramePose(gaze_x=gaze[0], gaze_y=gaze[1]))
    outside = np.ones(image.shape[:2], bool)
    for eye in points.eyes:
        before, after = iris_centre(image, eye), iris_centre(canvas, eye)
        moved = after - before
        axis = 0 if gaze[0] else 1
        assert moved[axis] * gaze[axis] > 0
        top, bottom = int(eye.upper_lid[:, 1].min()) - 2, int(eye.lower_lid[:, 1].max()) + 3
        outside[top:bottom, int(eye.corner_left[0]) - 2 : int(eye.corner_right[0]) + 3] = False
    assert np.array_equal(image[outside], canvas[outside])


def iris_centre(picture: Picture, eye: EyePoints) -> NDArray[np.float64]:
    x0, x1 = int(eye.corner_left[0]), int(eye.corner_right[0]) + 1
    y0, y1 = int(eye.upper_lid[:, 1].min()), int(eye.lower_lid[:, 1].max()) + 1
    dark = np.clip(140.0 - picture[y0:y1, x0:x1].mean(axis=2), 0, None)
    y, x = np.mgrid[y0:y1, x0:x1]
    return np.array([(x * dark).sum(), (y * dark).sum()]) / dark.sum()


@pytest.mark.parametrize("gaze_x", [0.2, -0.2])
def test_the_iris_stays_round_in_a_glance(gaze_x: float) -> None:
    image, points = drawn_face(900, 700, radius=220)
    canvas = image.copy()
    EyeRenderer(image, points).draw(canvas, FramePose(gaze_x=gaze_x))
    for eye in points.eyes:
        y0, y1 = int(eye.upper_lid[:, 1].min()) + 2, int(eye.lower_lid[:, 1].max()) - 2
        area = canvas[y0:y1, int(eye.corner_left[0]) : int(eye.corner_right[0])].mean(axis=2)
        rows = [np.flatnonzero(row < 110).mean() for row in area if np.count_nonzero(row < 110) > 8]
        assert len(rows) > 20
        assert np.ptp(rows) < 1.5, "all its rows move alike"


def test_lids_keep_their_place_in_a_glance_up() -> None:
    image, points = drawn_face(900, 700, radius=220)
    canvas = image.copy()
    EyeRenderer(image, points).draw(canvas, FramePose(gaze_y=-0.1))
    for eye in points.eyes:
        for corner in (eye.corner_left, eye.corner_right):
            x, y = corner.round().astype(int)
            around = np.s_[y - 6 : y + 7, x - 6 : x + 7]
            assert np.abs(canvas[around].astype(int) - image[around]).max() < 12


def test_raised_brows_move_up_and_lids_stay() -> None:
    image, canvas, points = drawn(FramePose(brow=0.2))
    for eye in points.eyes:
        x, y = eye.brow.round().astype(int)
        before = np.argmin(image[y - 12 : y + 12, x].mean(axis=1))
        after = np.argmin(canvas[y - 12 : y + 12, x].mean(axis=1))
        assert after < before
        assert np.array_equal(opening(image, eye), opening(canvas, eye))


def test_tiny_and_hidden_eyes_are_left_alone() -> None:
    image, points = drawn_face(720, 400, radius=110)
    left, right = points.eyes
    centre = (right.corner_left + right.corner_right) / 2

    def narrowed(share: float) -> EyePoints:
        return EyePoints(
            corner_left=centre + share * (right.corner_left - centre),
            corner_right=centre + share * (right.corner_right - centre),
            upper_lid=centre + share * (right.upper_lid - centre),
            lower_lid=centre + share * (right.lower_lid - centre),
            brow=right.brow,
        )

    def with_eyes(*eyes: EyePoints) -> FacePoints:
        return FacePoints(**{**points.__dict__, "eyes": eyes})

    assert EyeRenderer(image, with_eyes(left, right)).num_eyes == 2
    assert EyeRenderer(image, with_eyes(left, narrowed(0.4))).num_eyes == 1
    assert EyeRenderer(image, with_eyes(narrowed(0.05))).num_eyes == 0
    assert EyeRenderer(image, with_eyes()).num_eyes == 0


def test_eyes_at_the_border_are_drawn_without_error() -> None:
    image, points = drawn_face(120, 80, radius=60, middle=(8, 12))
    canvas = image.copy()
    EyeRenderer(image, points).draw(canvas, FramePose(blink=0.7, gaze_x=0.3, brow=0.2))
    assert canvas.shape == image.shape

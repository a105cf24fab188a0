"""What a shut lid looks like: skin with its texture, a line of lashes, nothing left of the open eye's own."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from liveavatar.engines.portrait.eyes import EyeRenderer
from liveavatar.engines.portrait.face_points import EyePoints, FacePoints
from liveavatar.engines.portrait.motion import FramePose
from tests.portrait.drawn_face import SKIN, drawn_face

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

DARK_BROWN, RUST = (40, 50, 70), (40, 70, 130)


def face_with_rims(colour: Colour, *, radius: float = 150) -> tuple[Picture, FacePoints]:
    """A drawn face whose upper lids have a dark rim and five lashes each."""
    picture, points = drawn_face(900, 700, radius=radius)
    for eye in points.eyes:
        edge = np.vstack([eye.corner_left, eye.upper_lid, eye.corner_right]).round().astype(np.int32)
        thickness = max(1, round(0.015 * radius))
        cv2.polylines(picture, [edge - [0, thickness]], False, colour, thickness, cv2.LINE_AA)
        for root in eye.upper_lid:
            tip = root - [0, 0.06 * radius]
            start, end = (tuple(int(value) for value in point.round()) for point in (root, tip))
            cv2.line(picture, start, end, colour, 1, cv2.LINE_AA)
    return picture, points


def shut(picture: Picture, points: FacePoints) -> Picture:
    canvas = picture.copy()
    EyeRenderer(picture, points).draw(canvas, FramePose(blink=1.0))
    return canvas


def middle_of(eye: EyePoints) -> tuple[int, int, int]:
    """Column and row between the corners, and half their distance."""
    x, y = ((eye.corner_left + eye.corner_right) / 2).round().astype(int).tolist()
    return x, y, round(float(eye.corner_right[0] - eye.corner_left[0]) / 2)


def lash_line(picture: Picture, eye: EyePoints) -> NDArray[np.float64]:
    """The darkest pixel of each column across the middle of the shut eye, (columns, 3)."""
    x, y, half_width = middle_of(eye)
    area = picture[y - half_width // 4 : y + half_width, x - half_width // 2 : x + half_width // 2]
    darkest = area.sum(axis=2).argmin(axis=0)
    return area[darkest, np.arange(area.shape[1])].astype(float)


def test_the_lash_line_is_about_as_dark_as_the_open_rim() -> None:
    picture, points = face_with_rims(DARK_BROWN)
    closed = shut(picture, points)
    for eye in points.eyes:
        assert lash_line(closed, eye).mean() < 0.55 * np.mean(SKIN)


def test_the_lash_line_has_the_hue_of_the_open_rim() -> None:
    def redness(colour: Colour) -> float:
        picture, points = face_with_rims(colour)
        closed = shut(picture, points)
        line = np.vstack([lash_line(closed, eye) for eye in points.eyes])
        return float((line[:, 2] - line[:, 0]).mean())

    assert redness(RUST) > redness((90, 60, 40)) + 20


def test_an_eye_without_a_dark_rim_gets_a_fainter_line() -> None:
    def darkness(picture: Picture, points: FacePoints) -> float:
        closed = shut(picture, points)
        return float(np.mean([np.mean(SKIN) - lash_line(closed, eye).mean() for eye in points.eyes]))

    plain, with_rims = drawn_face(900, 700, radius=150), face_with_rims(DARK_BROWN)
    assert darkness(*plain) < 0.9 * darkness(*with_rims)


def test_the_line_shows_on_dark_skin() -> None:
    picture, points = face_with_rims(DARK_BROWN)
    dark = (picture * 0.22).astype(np.uint8)
    closed = shut(dark, points)
    skin = 0.22 * np.mean(SKIN)
    for eye in points.eyes:
        assert skin - lash_line(closed, eye).mean() > 0.8 * skin


def test_lashes_hang_below_the_line() -> None:
    picture, points = face_with_rims(DARK_BROWN, radius=330)
    eye = points.eyes[0]
    x, y, half_width = middle_of(eye)
    closed = shut(picture, points).mean(axis=2)
    columns = np.arange(x - half_width // 2, x + half_width // 2)
    line = y - half_width // 4 + closed[y - half_width // 4 : y + half_width, columns].argmin(axis=0)
    across = closed[line + round(0.09 * half_width), columns]
    crossings = np.diff((across > across.mean()).astype(int))
    assert np.count_nonzero(crossings == 1) >= 4, "single hairs can be told apart"
    assert np.ptp(across) > 15


def test_nothing_is_left_of_the_open_eyes_lashes() -> None:
    picture, points = face_with_rims(DARK_BROWN)
    closed = shut(picture, points)
    for eye in points.eyes:
        x, _, half_width = middle_of(eye)
        top = round(float(eye.upper_lid[:, 1].min()))
        where = slice(top - half_width // 3, top + 2), slice(x - half_width // 2, x + half_width // 2)
        assert np.abs(picture[where].astype(float) - SKIN).max() > 60, "they were there"
        assert np.abs(closed[where].astype(float) - SKIN).max() < 32


@pytest.mark.parametrize("grain", [3.0, 6.0])
def test_a_shut_lid_is_as_rough_as_the_skin_around_it(grain: float) -> None:
    picture, points = face_with_rims(DARK_BROWN)
    noise = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 1, picture.shape[:2]), (0, 0), 0.8)
    noise *= grain / noise.std()
    rough = np.clip(picture + noise[..., None], 0, 255).astype(np.uint8)
    closed = shut(rough, points)
    for eye in points.eyes:
        x, y, half_width = middle_of(eye)
        lid = roughness(
            closed[y - half_width // 4 : y + half_width // 6, x - half_width // 2 : x + half_width // 2]
        )
        cheek = roughness(
            rough[y + half_width : y + 2 * half_width, x - half_width // 2 : x + half_width // 2]
        )
        assert 0.5 * cheek < lid < 1.3 * cheek


def roughness(skin: Picture) -> float:
    """Standard deviation of the fine detail."""
    light = skin.astype(np.float32).mean(axis=2)
    return float((light - cv2.GaussianBlur(light, (0, 0), 2.0)).std())

"""Framing: the head stays whole, nothing is stretched, points follow the picture."""

from __future__ import annotations

import numpy as np
import pytest

from liveavatar.engines.portrait.framing import HEAD_BELOW, MAX_SUPERSAMPLING, frame_face, frame_picture
from tests.portrait.drawn_face import drawn_face


@pytest.mark.parametrize("source", [(360, 200), (200, 360), (256, 256), (900, 500)])
@pytest.mark.parametrize("target", [(360, 200), (200, 360), (256, 256)])
def test_whole_head_is_in_the_canvas(source: tuple[int, int], target: tuple[int, int]) -> None:
    radius = 0.2 * min(source)
    image, points = drawn_face(*source, radius=radius)
    framed = frame_face(image, points, *target)
    moved = points.transformed(framed.matrix)
    rows, columns = framed.canvas.shape[:2]
    assert moved.head_centre[1] - 1.25 * moved.head_radius >= -1, "the hair is cut off"
    assert moved.chin[1] <= rows
    assert moved.head_centre[0] - moved.head_radius >= -1
    assert moved.head_centre[0] + moved.head_radius <= columns


def test_canvas_has_the_output_shape_and_a_little_more_detail_at_most() -> None:
    image, points = drawn_face(1800, 1000, radius=200)
    canvas = frame_face(image, points, 360, 200).canvas
    assert canvas.shape[1] / canvas.shape[0] == pytest.approx(360 / 200, rel=0.01)
    assert 360 < canvas.shape[1] <= MAX_SUPERSAMPLING * 360


def test_small_pictures_are_not_supersampled() -> None:
    image, points = drawn_face(180, 100, radius=20)
    assert frame_face(image, points, 360, 200).canvas.shape == (200, 360, 3)


def test_same_size_is_the_picture_itself() -> None:
    image, points = drawn_face(360, 200)
    framed = frame_face(image, points, 360, 200)
    assert np.array_equal(framed.canvas, image)
    assert np.allclose(framed.matrix, [[1, 0, 0], [0, 1, 0]])


def test_points_follow_the_picture() -> None:
    """The lips' colour lies where the moved points say."""
    image, points = drawn_face(720, 900, radius=110, middle=(300, 400))
    framed = frame_face(image, points, 360, 200)
    moved = points.transformed(framed.matrix)
    x, y = ((moved.mouth_left + moved.mouth_right) / 2).round().astype(int)
    lip = framed.canvas[y + 3, x].astype(int)
    assert np.abs(lip - np.array([110, 110, 200])).max() < 30


def test_tall_portrait_in_a_wide_video_is_extended_at_the_sides_not_cut() -> None:
    image, points = drawn_face(200, 360, radius=85, middle=(100, 170))
    framed = frame_face(image, points, 360, 200)
    moved = points.transformed(framed.matrix)
    rows, columns = framed.canvas.shape[:2]
    assert moved.head_centre[1] + HEAD_BELOW * moved.head_radius <= rows + 1
    left_edge, right_edge = framed.matrix[0, 2], framed.matrix[0, 0] * 200 + framed.matrix[0, 2]
    assert left_edge > 20
    assert right_edge < columns - 20
    extension = framed.canvas[:, : int(left_edge) - 4].astype(float)
    assert extension.mean() < 0.85 * image.mean(), "the extension should be darker"
    assert np.abs(np.diff(extension, axis=1)).mean() < 1.5, "the extension should be out of focus"


def test_picture_without_face_covers_the_video() -> None:
    image, _ = drawn_face(300, 300)
    canvas = frame_picture(image, 360, 200).canvas
    assert canvas.shape == (200, 360, 3)


def test_very_tall_picture_without_face_is_shown_whole() -> None:
    image, _ = drawn_face(100, 500, radius=20)
    framed = frame_picture(image, 400, 200)
    assert framed.matrix[1, 1] * 500 == pytest.approx(framed.canvas.shape[0], abs=2)


@pytest.mark.parametrize(("width", "height"), [(0, 200), (360, -2)])
def test_unusable_sizes_are_refused(width: int, height: int) -> None:
    image, points = drawn_face()
    with pytest.raises(ValueError, match="positive"):
        frame_face(image, points, width, height)


def test_grey_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="colour"):
        frame_picture(np.zeros((10, 10), np.uint8), 20, 10)

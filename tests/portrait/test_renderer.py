"""The two renderers: what a frame is made of, and that pictures of every shape work."""

from __future__ import annotations

import numpy as np
import pytest

from liveavatar.engines.portrait.motion import FramePose
from liveavatar.engines.portrait.renderer import PortraitRenderer, StillRenderer
from tests.portrait.drawn_face import drawn_face

REST = np.zeros(8, np.float32)
OPEN = np.array([0.9, 0.9, 0, 0, 0, 0, 0.3, 0], np.float32)
LIVELY = FramePose(yaw=0.1, pitch=0.05, roll=0.03, sway_x=0.04, breath=0.01, blink=1.0, brow=0.1, smile=0.5)


def test_frames_are_rgb_of_the_asked_size() -> None:
    image, points = drawn_face(720, 400, radius=90)
    frame = PortraitRenderer(image, points, 360, 200).frame(REST, FramePose())
    assert frame.shape == (200, 360, 3)
    assert frame.dtype == np.uint8
    shirt = frame[190, 180].astype(int)
    assert shirt[2] > shirt[0] + 60, "the shirt is blue: channels are in RGB order"


def test_a_frame_shows_mouth_and_eyes_moving() -> None:
    image, points = drawn_face(720, 400, radius=90)
    renderer = PortraitRenderer(image, points, 720, 400)
    rest = renderer.frame(REST, FramePose()).astype(int)
    spoken = renderer.frame(OPEN, FramePose(blink=1.0)).astype(int)
    changed = np.abs(spoken - rest).max(axis=2) > 40
    mouth = ((points.mouth_left + points.mouth_right) / 2).astype(int)
    eye = ((points.eyes[0].corner_left + points.eyes[0].corner_right) / 2).astype(int)
    assert changed[mouth[1] - 10 : mouth[1] + 40, mouth[0] - 20 : mouth[0] + 20].mean() > 0.1
    assert changed[eye[1] - 5 : eye[1] + 5, eye[0] - 8 : eye[0] + 8].mean() > 0.3


def test_rendering_keeps_no_trace_of_earlier_frames() -> None:
    image, points = drawn_face(360, 200)
    renderer = PortraitRenderer(image, points, 360, 200)
    first = renderer.frame(OPEN, LIVELY)
    renderer.frame(REST, FramePose())
    assert np.array_equal(first, renderer.frame(OPEN, LIVELY))


def test_the_given_picture_is_not_changed() -> None:
    image, points = drawn_face(360, 200)
    before = image.copy()
    PortraitRenderer(image, points, 360, 200).frame(OPEN, LIVELY)
    assert np.array_equal(image, before)


def test_points_are_given_in_frame_pixels() -> None:
    image, points = drawn_face(900, 500, radius=110)
    renderer = PortraitRenderer(image, points, 360, 200)
    assert np.allclose(renderer.points.chin, points.chin * 0.4, atol=1)
    assert renderer.points.head_radius == pytest.approx(44, abs=0.5)


@pytest.mark.parametrize("source", [(64, 64), (2400, 300), (300, 1600), (3000, 2000)])
def test_pictures_of_every_shape_are_rendered(source: tuple[int, int]) -> None:
    image, points = drawn_face(*source, radius=0.2 * min(source))
    assert PortraitRenderer(image, points, 256, 144).frame(OPEN, LIVELY).shape == (144, 256, 3)
    assert StillRenderer(image, 256, 144).frame(OPEN, LIVELY).shape == (144, 256, 3)


def test_a_face_at_the_very_edge_is_rendered() -> None:
    image, points = drawn_face(360, 200, radius=70, middle=(5, 10))
    assert PortraitRenderer(image, points, 360, 200).frame(OPEN, LIVELY).shape == (200, 360, 3)


def test_still_picture_moves_with_the_voice() -> None:
    image, _ = drawn_face(360, 200)
    renderer = StillRenderer(image, 360, 200)
    rest = renderer.frame(REST, FramePose())
    assert not np.array_equal(rest, renderer.frame(REST, FramePose(sway_x=0.05)))
    assert not np.array_equal(rest, renderer.frame(REST, FramePose(pitch=0.1)))
    assert not np.array_equal(rest, renderer.frame(OPEN, FramePose()))


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("size", [(360, 200), (200, 360), (256, 256)])
def test_still_picture_never_shows_its_border(sign: int, size: tuple[int, int]) -> None:
    """The outermost pixel of the picture is marked, and must not come into sight."""
    width, height = size
    image = np.full((height, width, 3), 90, np.uint8)
    image[0], image[-1], image[:, 0], image[:, -1] = 255, 255, 255, 255
    extreme = {"yaw": 0.4, "pitch": 0.3, "roll": 0.2, "sway_x": 0.2, "sway_y": 0.2, "breath": -0.1}
    pose = FramePose(**{name: sign * value for name, value in extreme.items()})
    assert StillRenderer(image, width, height).frame(REST, pose).max() == 90


def test_still_picture_rests_without_motion() -> None:
    image, _ = drawn_face(360, 200)
    renderer = StillRenderer(image, 360, 200)
    assert np.array_equal(renderer.frame(REST, FramePose()), renderer.frame(REST, FramePose()))

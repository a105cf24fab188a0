"""Head motion: no fold, no motion of the borders, a background that holds still."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from liveavatar.engines.portrait import matte
from liveavatar.engines.portrait.head import FIELD_NAMES, HeadWarp
from liveavatar.engines.portrait.matte import cut_out_head
from liveavatar.engines.portrait.motion import FramePose
from tests.portrait.drawn_face import drawn_face

Picture = NDArray[np.uint8]

LARGEST = {"yaw": 0.20, "pitch": 0.14, "roll": 0.07, "sway_x": 0.08, "sway_y": 0.05, "breath": 0.02}
LIVELY = FramePose(yaw=0.12, pitch=0.06, roll=0.03, sway_x=0.05, sway_y=0.03, breath=0.012)


def random_poses(count: int) -> list[FramePose]:
    """Poses up to twice as large as any plan makes them."""
    rng = np.random.default_rng(3)
    return [
        FramePose(**{name: float(2 * LARGEST[name] * rng.uniform(-1, 1)) for name in FIELD_NAMES})
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("size", "radius", "middle"),
    [
        ((360, 200), 48.0, None),
        ((360, 200), 95.0, (180.0, 100.0)),  # fills the frame
        ((200, 360), 60.0, (30.0, 60.0)),  # in a corner
        ((256, 256), 14.0, (128.0, 40.0)),  # far away
    ],
)
def test_the_warp_never_folds(
    size: tuple[int, int], radius: float, middle: tuple[float, float] | None
) -> None:
    image, points = drawn_face(*size, radius=radius, middle=middle)
    warp = HeadWarp(image, points, *size)
    for pose in random_poses(40):
        moved = cv2.resize(warp.displacement(pose), size, interpolation=cv2.INTER_LINEAR)
        by_y, by_x = np.gradient(moved, axis=(0, 1))
        jacobian = (1 - by_x[..., 0]) * (1 - by_y[..., 1]) - by_x[..., 1] * by_y[..., 0]
        assert jacobian.min() > 0.1


@pytest.mark.parametrize("size", [(360, 200), (200, 360), (256, 256)])
def test_rest_is_the_portrait_itself(size: tuple[int, int]) -> None:
    image, points = drawn_face(*size)
    frame = HeadWarp(image, points, *size).apply(image, FramePose())
    assert np.abs(frame.astype(int) - image).max() <= 3


def test_borders_hold_still() -> None:
    image, points = drawn_face(360, 200, radius=80)
    warp = HeadWarp(image, points, 360, 200)
    rest = warp.apply(image, FramePose()).astype(float)
    num_columns = round(0.08 * 360)
    for pose in random_poses(10):
        error = (warp.apply(image, pose) - rest) ** 2
        outer = np.concatenate([error[:, :num_columns], error[:, -num_columns:]], axis=1).mean()
        assert 10 * np.log10(255**2 / max(outer, 1e-6)) >= 35


def test_the_head_moves_and_the_wall_does_not() -> None:
    image, points = drawn_face(720, 400, radius=90)
    warp = HeadWarp(image, points, 720, 400)
    difference = np.abs(warp.apply(image, LIVELY).astype(int) - warp.apply(image, FramePose())).max(axis=2)
    x, y = points.head_centre.astype(int)
    face = difference[y - 60 : y + 60, x - 60 : x + 60]
    assert (face > 30).mean() > 0.02
    beside_head = difference[20:130, x - 260 : x - 110]  # a striped wall just outside the hair
    assert (beside_head > 12).mean() < 0.01


def test_motion_follows_the_pose() -> None:
    image, points = drawn_face(360, 200)
    warp = HeadWarp(image, points, 360, 200)
    rows, columns = warp.displacement(FramePose()).shape[:2]
    x, y = points.head_centre
    at_face = round(y / 200 * rows), round(x / 360 * columns)
    assert warp.displacement(FramePose(yaw=0.1))[at_face][0] > 1
    assert warp.displacement(FramePose(pitch=0.1))[at_face][1] > 1
    assert warp.displacement(FramePose(sway_x=-0.05))[at_face][0] < -1
    assert np.abs(warp.displacement(FramePose())).max() == 0


def test_supersampled_canvas_gives_frames_of_the_output_size() -> None:
    image, points = drawn_face(450, 250, radius=60)
    frame = HeadWarp(image, points, 360, 200).apply(image, LIVELY)
    assert frame.shape == (200, 360, 3)
    assert frame.dtype == np.uint8


def test_matte_covers_the_head_and_spares_the_wall() -> None:
    image, points = drawn_face(720, 400, radius=90)
    cut_out = cut_out_head(image, points)
    assert cut_out is not None
    x, y = points.head_centre.astype(int)
    assert cut_out.alpha[y - 50 : y + 50, x - 50 : x + 50].min() > 0.95
    assert cut_out.alpha[10:120, x - 260 : x - 130].max() < 0.1
    wall = image[y, x - 150].astype(int)
    assert np.abs(cut_out.background[y - 20, x].astype(int) - wall).max() < 45, (
        "the head is still in the background"
    )


def test_bright_skin_leaves_no_glaring_pixels_behind() -> None:
    """What a moving head uncovers has colours of the picture, also where skin is as bright as can be."""
    image, points = drawn_face(720, 400, radius=90)
    x, y = np.meshgrid(np.arange(720), np.arange(400))
    head = np.hypot((x - points.head_centre[0]) / 88, (y - points.head_centre[1] + 18) / 98) < 1
    image[head] = (40, 190, 255)
    image[~head] //= 4
    frame = HeadWarp(image, points, 720, 400).apply(image, LIVELY).astype(int)
    warmth = frame[..., 2] - frame[..., 1]
    assert warmth[y < 250].max() <= 255 - 190 + 12


def test_a_plain_picture_stays_plain() -> None:
    _, points = drawn_face(360, 200)
    plain = np.full((200, 360, 3), 128, np.uint8)
    frame = HeadWarp(plain, points, 360, 200).apply(plain, LIVELY)
    assert np.abs(frame.astype(int) - plain).max() <= 1


@pytest.mark.parametrize("outline", [np.ones, np.zeros])
def test_an_impossible_outline_is_not_cut(outline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matte, "_grabcut", lambda small, *_: outline(small.shape[:2], bool))
    monkeypatch.setattr(matte, "_keep_what_differs", lambda small, is_head, *_: is_head)
    image, points = drawn_face(360, 200)
    assert matte.cut_out_head(image, points) is None
    rest, moved = (HeadWarp(image, points, 360, 200).apply(image, pose) for pose in (FramePose(), LIVELY))
    assert np.array_equal(rest, image)
    assert not np.array_equal(rest, moved), "the picture moves as a whole instead"


def test_a_head_that_fills_the_picture_is_not_cut() -> None:
    """Too little background is in sight to tell the two apart."""
    image, points = drawn_face(200, 200, radius=95, middle=(100, 100))
    assert matte.cut_out_head(image, points) is None


def test_matte_is_the_same_every_time() -> None:
    image, points = drawn_face(360, 200)
    first, second = cut_out_head(image, points), cut_out_head(image, points)
    assert first is not None
    assert second is not None
    assert np.array_equal(first.alpha, second.alpha)

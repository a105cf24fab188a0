"""What a moving head leaves behind: no double edges, no blur, no stray hair."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.backdrop import fill_smoothly
from liveavatar.engines.portrait.head import HeadWarp
from liveavatar.engines.portrait.matte import cut_out_head
from liveavatar.engines.portrait.motion import FramePose
from tests.portrait.drawn_face import HAIR, drawn_face

Picture = NDArray[np.uint8]

WIDTH, HEIGHT, RADIUS = 720, 400, 90
MIDDLE = (360, 170)
SWAYED = (FramePose(sway_x=-0.08), FramePose(sway_x=0.08), FramePose(sway_x=0.06, roll=0.04))


def test_no_edge_beside_the_shoulders_shows_twice() -> None:
    """Posts in two colours: a pixel between the two is the edge of a post, or one post over another's place."""
    posts = np.where((np.arange(WIDTH) // 24) % 2 == 0, 60, 200).astype(np.uint8)
    wall = np.broadcast_to(posts[None, :, None], (HEIGHT, WIDTH, 3))
    image, points = drawn_face(WIDTH, HEIGHT, radius=RADIUS, middle=MIDDLE, wall=np.ascontiguousarray(wall))
    warp = HeadWarp(image, points, WIDTH, HEIGHT)

    def share_in_between(frame: Picture) -> float:
        top, bottom = (round(MIDDLE[1] + b * RADIUS) for b in (0.65, 1.0))
        grey = frame[top:bottom].mean(axis=2)
        beside = np.hstack(
            [grey[:, MIDDLE[0] - 180 : MIDDLE[0] - 100], grey[:, MIDDLE[0] + 100 : MIDDLE[0] + 180]]
        )
        return float(((beside > 75) & (beside < 185)).mean())

    for pose in SWAYED:
        assert share_in_between(warp.apply(image, pose)) < 0.06


def test_what_the_head_hides_is_as_rough_as_what_is_around_it() -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(5).normal(0, 1, (HEIGHT, WIDTH)), (0, 0), 1.2)
    wall = np.clip(120 + 25 * noise / noise.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    image, points = drawn_face(WIDTH, HEIGHT, radius=RADIUS, middle=MIDDLE, wall=wall)
    matte = cut_out_head(image, points)
    assert matte is not None
    fine = matte.background.astype(np.float32) - cv2.GaussianBlur(matte.background, (0, 0), 4)
    rows = slice(MIDDLE[1] - 60, MIDDLE[1] + 30)
    for side in (-1, 1):
        uncovered, outside = (
            fine[rows, MIDDLE[0] + side * distance - 5 : MIDDLE[0] + side * distance + 5].std()
            for distance in (72, 130)
        )
        assert 0.5 < uncovered / outside < 1.3


def test_loose_hair_moves_with_the_head() -> None:
    wall = np.full((HEIGHT, WIDTH, 3), 190, np.uint8)
    image, points = drawn_face(WIDTH, HEIGHT, radius=RADIUS, middle=MIDDLE, wall=wall)
    edge = MIDDLE[0] + round(0.95 * RADIUS)
    cv2.ellipse(image, (edge - 2, 150), (8, 30), 0, -90, 90, HAIR, 1, cv2.LINE_AA)
    frame = HeadWarp(image, points, WIDTH, HEIGHT).apply(image, SWAYED[0])
    at_rest, left_behind = (picture[120:180, edge + 3 : edge + 12] for picture in (image, frame))
    assert at_rest.min() < 100
    assert left_behind.min() > 180


def test_filling_keeps_what_is_known_and_continues_it() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[..., 0] = np.linspace(40, 200, 60).astype(np.uint8)
    known = np.ones((40, 60), bool)
    known[10:30, 20:40] = False
    damaged = picture.copy()
    damaged[~known] = 255
    filled = fill_smoothly(damaged, known)
    assert np.abs(filled[known] - picture[known]).max() < 1e-2
    assert np.abs(filled[~known] - picture[~known]).max() < 40
    assert filled[..., 1:].max() < 1


def test_filling_without_anything_known_gives_the_mean() -> None:
    picture = np.full((8, 8, 3), 77, np.uint8)
    assert np.allclose(fill_smoothly(picture, np.zeros((8, 8), bool)), 77)

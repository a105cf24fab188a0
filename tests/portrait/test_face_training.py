"""The procedural faces and the pieces of the landmark training."""

from __future__ import annotations

import numpy as np
import torch

from liveavatar.engines.portrait import landmark_net as net_points
from liveavatar.engines.portrait.landmark_net import (
    CROP_PIXELS,
    MIRROR_ORDER,
    NUM_POINTS,
    load_landmark_net,
    place_points,
)
from liveavatar.engines.portrait.training.face_distortion import distort
from liveavatar.engines.portrait.training.faces import sample_face, sample_other
from liveavatar.engines.portrait.training.train_landmarks import learning_rate, mirror_half


def test_a_seed_gives_one_face() -> None:
    first, second = sample_face(7), sample_face(7)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], sample_face(8)[0])


def test_faces_have_their_points_in_order() -> None:
    for seed in range(20):
        crop, points = sample_face(seed)
        assert crop.shape == (CROP_PIXELS, CROP_PIXELS, 3)
        assert points.shape == (NUM_POINTS, 2)
        assert np.all(np.isfinite(points))
        gap = points[net_points.LOWER_LIP_INNER] - points[net_points.UPPER_LIP_INNER]
        down = points[net_points.CHIN] - points[net_points.NOSE_BASE]
        assert np.all(gap @ down > -1e-3 * (down @ down))


def test_mirroring_twice_changes_nothing() -> None:
    assert [MIRROR_ORDER[place] for place in MIRROR_ORDER] == list(range(NUM_POINTS))
    assert MIRROR_ORDER[net_points.LEFT_EYE] == net_points.RIGHT_EYE + 1


def test_distortion_moves_points_with_the_picture() -> None:
    torch.manual_seed(3)
    images, points = torch.zeros(8, 3, CROP_PIXELS, CROP_PIXELS), torch.full((8, NUM_POINTS, 2), 70.0)
    images[:, :, 68:73, 68:73] = 1.0
    moved, moved_points = distort(*mirror_half(images, points))
    for picture, (x, y) in zip(moved, moved_points[:, 0].tolist(), strict=True):
        column, row = round(x), round(y)
        assert picture[:, row, column].mean() > picture.mean() + 0.2


def test_the_shipped_net_places_points_on_unseen_faces() -> None:
    crops, points = zip(*(sample_face(2**41 + seed) for seed in range(24)), strict=True)
    found, probability, _ = place_points(load_landmark_net(), np.stack(crops))
    wanted = np.stack(points)
    visible = np.all((wanted > 0) & (wanted < CROP_PIXELS), axis=-1)
    error = np.linalg.norm(found - wanted, axis=-1)[visible].mean()
    assert error < 1.3  # pixels of a 128 pixel crop
    assert (probability > 0.85).mean() > 0.9


def test_the_shipped_net_knows_what_is_no_face() -> None:
    crops = np.stack([sample_other(2**41 + seed) for seed in range(24)])
    _, probability, _ = place_points(load_landmark_net(), crops)
    assert (probability > 0.85).mean() < 0.1


def test_the_learning_rate_rises_and_falls() -> None:
    assert learning_rate(0.0, 0, 1e-3) < learning_rate(0.1, 300, 1e-3)
    assert learning_rate(1.0, 9000, 1e-3) < 2e-5

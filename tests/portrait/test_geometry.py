"""The local frame, its curves and its regions."""

from __future__ import annotations

import numpy as np
import pytest

from liveavatar.engines.portrait.geometry import (
    CURVE_REACH,
    CornerFrame,
    Region,
    TabulatedCurve,
    monotone_cubic,
    smoothstep,
)


def test_smoothstep_rises_and_falls() -> None:
    np.testing.assert_allclose(smoothstep([-1.0, 0.0, 0.5, 1.0, 2.0]), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(smoothstep([0.0, 1.0], start=1.0, end=0.0), [1, 0])


def test_monotone_cubic_passes_through_knots_without_overshoot() -> None:
    x, y = [0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 1.0, 1.0, 0.5]
    np.testing.assert_allclose(monotone_cubic(x, y, x), y, atol=1e-12)
    dense = monotone_cubic(x, y, np.linspace(-1, 5, 601))
    assert dense.min() >= 0.0
    assert dense.max() <= 1.0
    assert np.all(np.diff(monotone_cubic(x[:4], y[:4], np.linspace(0, 3, 301))) >= -1e-12)


def test_monotone_cubic_agrees_with_scipy_inside() -> None:
    interpolate = pytest.importorskip("scipy.interpolate")
    rng = np.random.default_rng(0)
    x, y = np.cumsum(rng.uniform(0.1, 1.0, 9)), rng.normal(size=9)
    at = np.linspace(x[1], x[-2], 200)  # the end slopes are chosen differently
    np.testing.assert_allclose(monotone_cubic(x, y, at), interpolate.PchipInterpolator(x, y)(at), atol=1e-9)


@pytest.mark.parametrize("bad", [([], []), ([0.0, 0.0], [1.0, 2.0]), ([0.0, 1.0], [1.0])])
def test_monotone_cubic_rejects_bad_knots(bad: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="knots"):
        monotone_cubic(*bad, [0.0])


def test_frame_of_a_tilted_mouth_round_trips() -> None:
    frame = CornerFrame.between([100, 80], [160, 110])
    np.testing.assert_allclose(frame.to_local([[100, 80], [160, 110]]), [[-1, 0], [1, 0]], atol=1e-12)
    u, v = np.array([-1.2, 0.3], np.float32), np.array([0.4, -0.7], np.float32)
    x, y = frame.to_picture(u, v)
    np.testing.assert_allclose(frame.to_local(np.stack([x, y], -1)), np.stack([u, v], -1), atol=1e-5)
    assert frame.to_local(frame.centre + np.array([0, 10]))[1] > 0, "v must point down"


def test_frame_rejects_coinciding_corners() -> None:
    with pytest.raises(ValueError, match="coincide"):
        CornerFrame.between([5, 5], [5, 5])


def test_grid_matches_to_local_and_region_contains_the_box() -> None:
    frame = CornerFrame.between([40, 50], [80, 60])
    region = frame.region(u_range=(-1.5, 1.5), v_range=(-0.5, 1.0), picture_shape=(120, 140, 3))
    u, v = frame.grid(region)
    assert u.shape == v.shape == (region.height, region.width)
    expected = frame.to_local([region.x0 + 3, region.y0 + 2])
    np.testing.assert_allclose([u[2, 3], v[2, 3]], expected, atol=1e-5)
    assert u.min() <= -1.5
    assert u.max() >= 1.5


@pytest.mark.parametrize("right", [[160, 110], [160, 60], [160, 80]])
def test_columns_between_hold_all_pixels_of_those_u(right: list[float]) -> None:
    frame = CornerFrame.between([100, 80], right)
    first, end = frame.columns_between(u_range=(-1.2, 1.2), rows=(90, 110))
    u, _ = frame.grid(Region(x0=0, y0=90, x1=300, y1=110))
    columns = np.flatnonzero((np.abs(u) <= 1.2).any(axis=0))
    assert first <= columns[0] <= first + 10
    assert end - 10 <= columns[-1] < end


def test_region_is_cut_at_the_border_and_may_be_empty() -> None:
    frame = CornerFrame.between([-60, 50], [-20, 50])
    assert frame.region(u_range=(-1, 1), v_range=(-1, 1), picture_shape=(100, 100)).is_empty
    cut = frame.region(u_range=(-1, 3), v_range=(-9, 9), picture_shape=(100, 100))
    assert (cut.x0, cut.y0, cut.y1) == (0, 0, 100)


def test_region_intersection_and_crop_coordinates() -> None:
    outer, inner = Region(x0=10, y0=20, x1=50, y1=60), Region(x0=30, y0=40, x1=90, y1=50)
    assert outer.intersection(inner) == Region(x0=30, y0=40, x1=50, y1=50)
    assert inner.within(outer) == Region(x0=20, y0=20, x1=80, y1=30)
    assert outer.intersection(Region(x0=60, y0=0, x1=70, y1=9)).is_empty


def test_curve_passes_through_points_in_any_order() -> None:
    curve = TabulatedCurve.through([[0.5, 0.2], [-0.5, 0.1], [0.0, 0.3], [0.0, 0.3], [1.4, 9.0]])
    np.testing.assert_allclose(
        curve(np.array([-1.0, -0.5, 0.0, 0.5, 1.0], np.float32)), [0, 0.1, 0.3, 0.2, 0], atol=2e-3
    )
    np.testing.assert_allclose(curve(np.array([-9.0, -1.3, CURVE_REACH, 9.0], np.float32)), 0.0)
    assert curve(np.zeros((4, 5), np.float32)).shape == (4, 5)

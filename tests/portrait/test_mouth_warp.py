"""The skin around the mouth: it stretches, it never folds."""

from __future__ import annotations

from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from liveavatar.engines.portrait.geometry import Floats
from liveavatar.engines.portrait.mouth_anatomy import measure_mouth
from liveavatar.engines.portrait.mouth_shape import MouthCommand, MouthShape, shape_mouth
from liveavatar.engines.portrait.mouth_warp import COLUMN_STEP, ROW_STEP, MouthWarp, squeeze_profile
from tests.portrait.painted_mouth import paint_mouth

LEAST_AREA = 0.04  # of a frame pixel in the portrait; 0 would be a fold


def area_of_cells(warp: MouthWarp, sideways: Floats, downwards: Floats) -> Floats:
    """Signed area in the portrait of every lattice cell of the frame, relative to its own."""
    u = warp.lattice.u + sideways
    v = warp.lattice.v[:, None] + downwards
    u_along_u, u_along_v = np.diff(u, axis=1)[:-1] / COLUMN_STEP, np.diff(u, axis=0)[:, :-1] / ROW_STEP
    v_along_u, v_along_v = np.diff(v, axis=1)[:-1] / COLUMN_STEP, np.diff(v, axis=0)[:, :-1] / ROW_STEP
    return np.asarray(u_along_u * v_along_v - u_along_v * v_along_u, np.float32)


def edges_at(warp: MouthWarp, shape: MouthShape, sideways: Floats) -> tuple[Floats, Floats]:
    """The lip edges at every point of the lattice of the frame."""
    column_u = warp.lattice.u + sideways
    upper = np.interp(column_u, shape.edges.u, shape.edges.upper)
    lower = np.interp(column_u, shape.edges.u, shape.edges.lower)
    return upper.astype(np.float32), lower.astype(np.float32)


def random_commands(rng: np.random.Generator, count: int) -> list[MouthCommand]:
    """Any mouth, with many at the corners of the range, which speech seldom reaches."""
    vectors = rng.uniform(-0.05, 1.2, (count, 8)).astype(np.float32)
    vectors[:, 2] = rng.uniform(-1.0, 1.2, count)
    vectors[: count // 3] = np.round(vectors[: count // 3])
    return [MouthCommand.from_channels(vector, float(rng.uniform())) for vector in vectors]


def smallest_area(warp: MouthWarp, command: MouthCommand) -> float:
    """The most compressed cell away from the cut between the lips."""
    shape = shape_mouth(warp.anatomy, warp.columns, command)
    fields = warp.fields(shape, command.width_scale)
    upper, lower = edges_at(warp, shape, fields.sideways)
    row, beyond = warp.lattice.v[:, None], np.abs(warp.lattice.u + fields.sideways) > 1.2
    above, below = (
        area_of_cells(warp, fields.sideways, downwards) for downwards in (fields.above, fields.below)
    )
    is_above = (beyond | (row < upper - 2 * ROW_STEP))[:-1, :-1]
    is_below = (beyond | (row > lower + ROW_STEP))[:-1, :-1]
    return float(min(above[is_above].min(), below[is_below].min()))


@pytest.mark.parametrize("portrait_gap", [0.0, 0.3, 0.8, 1.5])
def test_skin_never_folds_away_from_the_cut(portrait_gap: float) -> None:
    mouth = paint_mouth(gap=portrait_gap)
    warp = MouthWarp(measure_mouth(mouth.picture, mouth.points))
    for command in random_commands(np.random.default_rng(7), 60):
        assert smallest_area(warp, command) > LEAST_AREA, command


@pytest.mark.parametrize("seed", range(12))
def test_rows_stay_in_order_for_badly_measured_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mouth = paint_mouth(gap=float(rng.choice([0.0, 0.3, 0.9])))
    error = 0.2 * mouth.frame.half_width
    moved: dict[str, Any] = {
        field.name: value + rng.normal(0, error, np.shape(value))
        for field in fields_of(mouth.points)
        if isinstance(value := getattr(mouth.points, field.name), np.ndarray)
    }
    warp = MouthWarp(measure_mouth(mouth.picture, replace(mouth.points, **moved)))
    for command in random_commands(rng, 10):
        shape = shape_mouth(warp.anatomy, warp.columns, command)
        fields = warp.fields(shape, 1.0)
        for downwards in (fields.above, fields.below):
            assert np.isfinite(downwards).all()
            assert np.diff(warp.lattice.v[:, None] + downwards, axis=0).min() > -1e-4, command


def test_both_sides_of_the_cut_agree_in_the_cheeks() -> None:
    mouth = paint_mouth(gap=0.5)
    warp = MouthWarp(measure_mouth(mouth.picture, mouth.points))
    command = MouthCommand.from_channels(np.array([0.8, 0.7, 0, 0.5, 0, 0, 0, 0], np.float32), 0.5)
    fields = warp.fields(shape_mouth(warp.anatomy, warp.columns, command), command.width_scale)
    cheeks = np.abs(warp.lattice.u) > 1.2
    np.testing.assert_allclose(fields.above[:, cheeks], fields.below[:, cheeks], atol=1e-4)


def test_displacement_vanishes_at_the_edge_of_the_lattice() -> None:
    mouth = paint_mouth(gap=0.5)
    warp = MouthWarp(measure_mouth(mouth.picture, mouth.points))
    command = MouthCommand.from_channels(np.array([1, 1, 0, 1, 0, 0, 0, 0], np.float32), 1.0)
    fields = warp.fields(shape_mouth(warp.anatomy, warp.columns, command), command.width_scale)
    pixel = warp.anatomy.pixel
    for field, row in ((fields.above, 0), (fields.below, -1)):
        assert np.abs(field[row]).max() < 0.02 * pixel
        assert np.abs(field[:, [0, -1]]).max() < 0.05 * pixel
    assert np.abs(fields.sideways[[0, -1]]).max() < 0.02 * pixel
    assert np.abs(fields.sideways[:, [0, -1]]).max() < 0.02 * pixel


def test_rounding_leaves_the_chin_its_width() -> None:
    mouth = paint_mouth()
    anatomy = measure_mouth(mouth.picture, mouth.points)
    u = np.full((2, 1), 0.8, np.float32)
    at_lips, at_chin = squeeze_profile(anatomy, u, np.array([[0.1], [anatomy.chin_level]], np.float32))[:, 0]
    assert at_lips > 0.5
    assert at_chin < 0.1 * at_lips


def test_the_chin_follows_the_jaw() -> None:
    mouth = paint_mouth()
    warp = MouthWarp(measure_mouth(mouth.picture, mouth.points))
    command = MouthCommand.from_channels(np.array([1, 0.5, 0, 0, 0, 0, 0, 0], np.float32), 0.0)
    shape = shape_mouth(warp.anatomy, warp.columns, command)
    fields = warp.fields(shape, command.width_scale)
    chin_row = np.argmin(np.abs(warp.lattice.v - (warp.anatomy.chin_level + shape.chin_drop)))
    middle = np.argmin(np.abs(warp.lattice.u))
    assert shape.chin_drop > 0.4
    assert fields.below[chin_row, middle] == pytest.approx(-shape.chin_drop, abs=0.05)

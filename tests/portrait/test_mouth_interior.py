"""What is painted between the lips."""

from __future__ import annotations

import numpy as np
import pytest

from liveavatar.engines.portrait.geometry import Floats, Region
from liveavatar.engines.portrait.motion import MOUTH_CHANNELS
from liveavatar.engines.portrait.mouth import MouthRenderer
from liveavatar.engines.portrait.mouth_interior import GUM, TOOTH, UPPER_TEETH_BELOW_LINE, InteriorView
from liveavatar.engines.portrait.mouth_shape import MouthCommand
from tests.portrait.painted_mouth import CAVITY, PaintedMouth, paint_mouth


def brightest_tooth(*, shown: float) -> float:
    """The largest share of tooth when `shown` (half mouth widths) of the incisors is below the upper lip."""
    mouth = paint_mouth()
    interior = MouthRenderer(mouth.picture, mouth.points)._interior
    v, u = np.mgrid[-0.2:0.4:0.005, -0.5:0.5:0.01].astype(np.float32)
    lip = np.full_like(u, UPPER_TEETH_BELOW_LINE - shown)
    region = Region(x0=0, y0=0, x1=u.shape[1], y1=u.shape[0])
    view = InteriorView(region=region, u=u, v=v, column_u=u, upper_edge=lip, lower_edge=lip + 1)
    materials = [np.zeros_like(u) for _ in range(4)]
    at_rest = MouthCommand.from_channels(np.zeros(len(MOUTH_CHANNELS), np.float32), smile=0.0)
    interior._add_upper_teeth(materials, view, at_rest)
    return float(materials[TOOTH][v > lip].max())


def test_tips_of_teeth_that_barely_show_are_no_row_of_bright_dots() -> None:
    assert brightest_tooth(shown=0.02) < 0.25


@pytest.mark.parametrize("shown", [0.10, 0.2])
def test_teeth_that_show_are_bright(shown: float) -> None:
    assert brightest_tooth(shown=shown) > 0.85


def drawn_column(mouth: PaintedMouth, **channels: float) -> Floats:
    """Colours (rows, 3) between the lips in the middle column of a drawn upright mouth, from top to bottom."""
    renderer = MouthRenderer(mouth.picture, mouth.points)
    canvas = mouth.picture.copy()
    vector = np.array([channels.get(name, 0.0) for name in MOUTH_CHANNELS], np.float32)
    renderer.draw(canvas, vector)
    edges, frame = renderer.lip_edges(vector), renderer.anatomy.frame
    upper, lower = (float(np.interp(0.0, edges.u, edge)) for edge in (edges.upper, edges.lower))
    first, last = np.rint(frame.centre[1] + frame.half_width * np.array([upper, lower])).astype(int)
    return canvas[first + 2 : last - 1, round(float(frame.centre[0]))].astype(np.float32)


def test_the_tongue_of_a_shout_is_darker_when_it_is_raised_to_the_upper_lip() -> None:
    mouth = paint_mouth(gap=1.3)
    tongue = np.array([90, 90, 170])
    is_dark = np.abs(mouth.picture.astype(int) - CAVITY).max(axis=-1) < 12
    mouth.picture[is_dark] = tongue
    wide, narrow = drawn_column(mouth, open=1.0, jaw=1.0), drawn_column(mouth, open=0.2, jaw=0.2)
    assert wide[-5] == pytest.approx(tongue, abs=3)
    assert narrow.mean(axis=1).max() < 0.8 * tongue.mean()


def test_the_inside_is_black_only_where_the_mouth_is_open() -> None:
    mouth = paint_mouth()
    interior = MouthRenderer(mouth.picture, mouth.points)._interior
    height = np.array([[0.03, 0.6]], np.float32)
    at_top = np.zeros_like(height)
    view = InteriorView(
        region=Region(x0=0, y0=0, x1=2, y1=1),
        u=at_top,
        v=at_top,
        column_u=at_top,
        upper_edge=at_top,
        lower_edge=height,
    )
    materials = interior._cavity(view, depth=at_top)
    slit, wide = materials[GUM][0]
    assert slit > 0.4 > 0.1 > wide
    np.testing.assert_allclose(sum(materials), 1.0, atol=1e-6)


def test_small_mouths_have_no_grey_line_of_lower_teeth_on_the_lip() -> None:
    def lower_tooth(half_width: float) -> float:
        mouth = paint_mouth(half_width=half_width)
        renderer = MouthRenderer(mouth.picture, mouth.points)
        vector = np.array([{"open": 0.9, "jaw": 0.9}.get(name, 0.0) for name in MOUTH_CHANNELS], np.float32)
        command = MouthCommand.from_channels(vector, smile=0.0)
        shape = renderer._shape(command)
        view = renderer._view(renderer.region, shape, command)
        materials = [np.zeros_like(view.u) for _ in range(4)]
        renderer._interior._add_lower_teeth(materials, view, shape, command)
        return float(materials[TOOTH].max())

    assert lower_tooth(60) > 0.4
    assert lower_tooth(10) < 0.05


def test_no_second_row_of_teeth_below_the_portraits_own() -> None:
    mouth = paint_mouth(gap=0.18)
    renderer = MouthRenderer(mouth.picture, mouth.points)
    canvas = mouth.picture.copy()
    vector = np.zeros(len(MOUTH_CHANNELS), np.float32)
    vector[[MOUTH_CHANNELS.index("open"), MOUTH_CHANNELS.index("jaw")]] = 0.5
    renderer.draw(canvas, vector)
    u = np.linspace(-0.3, 0.3, 13, dtype=np.float32)
    for below in (0.0, 0.02):
        x, y = mouth.frame.to_picture(u, renderer.anatomy.lower_inner(u) + np.float32(below))
        brightness = canvas[y.round().astype(int), x.round().astype(int)].mean(axis=-1)
        assert brightness.max() < 80, f"{below} below the own teeth"


@pytest.mark.parametrize("between", [(135, 135, 190), (70, 75, 120)])
def test_lips_hardly_parted_show_painted_teeth_where_no_own_ones_are_seen(
    between: tuple[int, int, int],
) -> None:
    """A pale lip or a shade between the lips, drawn out as if it were teeth, would be a plate of skin in the mouth."""
    mouth = paint_mouth(gap=0.24)
    inside = (mouth.picture.min(axis=-1) > 180) | (mouth.picture.max(axis=-1) < 60)
    mouth.picture[inside] = between
    column = drawn_column(mouth, open=0.9, jaw=0.8)
    tooth = column[len(column) // 6 : len(column) // 3].mean(axis=0)
    assert tooth.min() > 105
    assert np.ptp(tooth) < 45


def test_lips_hardly_parted_keep_the_portraits_own_teeth() -> None:
    mouth = paint_mouth(gap=0.3)
    own = (mouth.picture.min(axis=-1) > 180) & (np.ptp(mouth.picture, axis=-1) < 25)
    mouth.picture[own] = (190, 235, 215)  # a colour that nothing painted has
    column = drawn_column(mouth, open=0.9, jaw=0.8)
    assert (column[:, 1] - column[:, 2]).max() > 12

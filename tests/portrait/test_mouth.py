"""The speaking mouth, measured on rendered pixels."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from liveavatar.engines.portrait.geometry import Floats, Picture
from liveavatar.engines.portrait.motion import MOUTH_CHANNELS
from liveavatar.engines.portrait.mouth import MouthRenderer
from liveavatar.engines.portrait.mouth_folds import MouthFolds
from liveavatar.engines.portrait.mouth_shape import MouthColumns, MouthCommand, shape_mouth
from tests.portrait.painted_mouth import LIP, PaintedMouth, is_lip, lip_gap_px, mouth_width_px, paint_mouth


def mouth_vector(**channels: float) -> Floats:
    unknown = set(channels) - set(MOUTH_CHANNELS)
    assert not unknown
    return np.array([channels.get(name, 0.0) for name in MOUTH_CHANNELS], np.float32)


def renderer_of(mouth: PaintedMouth) -> MouthRenderer:
    return MouthRenderer(mouth.picture, mouth.points)


def render(mouth: PaintedMouth, *, smile: float = 0.0, **channels: float) -> Picture:
    canvas = mouth.picture.copy()
    renderer_of(mouth).draw(canvas, mouth_vector(**channels), smile=smile)
    return canvas


def psnr(first: Picture, second: Picture) -> float:
    error = float(np.mean((first.astype(np.float64) - second) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("portrait_gap", [0.0, 0.3, 0.9, 1.4])
def test_commanded_closure_leaves_less_than_a_pixel(portrait_gap: float) -> None:
    mouth = paint_mouth(gap=portrait_gap)
    assert lip_gap_px(render(mouth, press=1.0), mouth) < 1.0
    assert lip_gap_px(render(mouth, press=0.15), mouth) < 1.0
    assert lip_gap_px(render(mouth, press=1.0, jaw=0.6, open=0.8), mouth) < 1.0


@pytest.mark.parametrize("portrait_gap", [0.0, 0.3, 0.9])
def test_gap_follows_commanded_openness(portrait_gap: float) -> None:
    mouth = paint_mouth(gap=portrait_gap)
    commands = np.linspace(0.0, 1.0, 11)
    gaps = [lip_gap_px(render(mouth, open=float(opening), jaw=float(opening)), mouth) for opening in commands]
    assert np.corrcoef(commands, gaps)[0, 1] >= 0.95
    assert gaps[-1] > 0.6 * mouth.frame.half_width


def test_rendered_gap_is_that_of_lip_edges() -> None:
    mouth = paint_mouth(gap=0.3)
    vector = mouth_vector(open=0.5, jaw=0.5)
    renderer = renderer_of(mouth)
    edges = renderer.lip_edges(vector)
    expected = float((edges.lower - edges.upper).max()) * renderer.anatomy.frame.half_width
    assert lip_gap_px(render(mouth, open=0.5, jaw=0.5), mouth) == pytest.approx(expected, abs=2.5)


def test_rounding_narrows_and_spreading_widens() -> None:
    mouth = paint_mouth()
    at_rest = mouth_width_px(render(mouth, press=0.1))
    rounded = mouth_width_px(render(mouth, round=1.0, open=0.3)) / at_rest
    spread = mouth_width_px(render(mouth, wide=1.0)) / at_rest
    assert 0.70 <= rounded <= 0.85
    assert 1.03 <= spread <= 1.2


def test_rounding_makes_the_opening_an_oval() -> None:
    renderer = renderer_of(paint_mouth())
    spread, rounded = (
        renderer.lip_edges(mouth_vector(open=0.5, jaw=0.4, round=rounding)) for rounding in (0.0, 1.0)
    )
    near_corner = np.abs(np.abs(spread.u) - 0.92) < 0.02
    assert np.all((spread.lower - spread.upper)[near_corner] > 0)
    np.testing.assert_allclose((rounded.lower - rounded.upper)[near_corner], 0.0, atol=1e-6)


def bow_of_line(mouth: PaintedMouth, **channels: float) -> float:
    """How far the middle of closed lips hangs below their corners, in half mouth widths."""
    edges = renderer_of(mouth).lip_edges(mouth_vector(press=1.0, **channels))
    corner = float(np.mean(np.interp([-1.0, 1.0], edges.u, edges.upper)))
    return float(np.interp(0.0, edges.u, edges.upper)) - corner


def test_rounding_straightens_a_smiling_line() -> None:
    smiling = paint_mouth(bow=0.2)
    assert bow_of_line(smiling) > 0.15
    assert 0.0 <= bow_of_line(smiling, round=1.0) < 0.07
    assert bow_of_line(paint_mouth(), round=1.0) == pytest.approx(0.0, abs=0.02)


def test_parted_lips_do_not_carry_the_dark_line_between_closed_ones() -> None:
    mouth = paint_mouth()
    ends = [
        tuple(np.rint(end).astype(int).tolist())
        for end in (mouth.points.mouth_left, mouth.points.mouth_right)
    ]
    cv2.line(mouth.picture, *ends, color=(50, 40, 90), thickness=3)
    edges = renderer_of(mouth).lip_edges(mouth_vector(open=0.8, jaw=0.8))
    edge = mouth.frame.half_width * float(np.interp(0.0, edges.u, edges.lower))
    column, row = np.rint(mouth.frame.centre + edge * mouth.frame.v_axis).astype(int)
    brightness = render(mouth, open=0.8, jaw=0.8)[row + 1 : row + 8, column].mean(axis=-1)
    assert brightness.min() > 0.95 * brightness.max()


def test_smile_lifts_the_corners() -> None:
    renderer = renderer_of(paint_mouth())
    rest, smile = (renderer.lip_edges(mouth_vector(), smile=amount) for amount in (0.0, 1.0))
    corner, middle = np.argmin(np.abs(rest.u - 1.0)), np.argmin(np.abs(rest.u))
    assert smile.upper[corner] < rest.upper[corner] - 0.1
    assert smile.upper[middle] == pytest.approx(rest.upper[middle], abs=0.01)


def test_closed_portrait_at_rest_is_nearly_unchanged() -> None:
    mouth = paint_mouth()
    assert psnr(render(mouth, press=0.1), mouth.picture) > 42
    assert psnr(render(mouth), mouth.picture) > 42


@pytest.mark.parametrize("channels", [{"open": 1.0, "jaw": 1.0}, {"round": 1.0}, {"wide": 1.0, "press": 1.0}])
@pytest.mark.parametrize("tilt", [0.0, 25.0])
def test_nothing_moves_at_the_border_of_the_region(channels: dict[str, float], tilt: float) -> None:
    mouth = paint_mouth(gap=0.3, half_width=40, tilt_degrees=tilt)
    drawn = render(mouth, smile=1.0, **channels)
    region = renderer_of(mouth).region
    difference = np.abs(drawn.astype(np.int16) - mouth.picture).max(axis=-1)
    inner = difference[region.slices]
    assert inner[2:-2, 2:-2].max() > 20, "the mouth moved"
    ring = np.concatenate(
        [inner[:2].ravel(), inner[-2:].ravel(), inner[:, :2].ravel(), inner[:, -2:].ravel()]
    )
    assert ring.max() <= 2
    difference[region.slices] = 0
    assert difference.max() == 0


@pytest.mark.parametrize(
    "mouth",
    [
        paint_mouth(half_width=10, gap=0.2),
        paint_mouth(half_width=45, gap=0.4, tilt_degrees=-25),
        paint_mouth(half_width=40, gap=0.2, centre=(20, 150)),
        paint_mouth(half_width=40, gap=1.2, centre=(380, 340)),
        paint_mouth(half_width=40, centre=(-200, 150)),
        paint_mouth(half_width=3, gap=0.3),
        paint_mouth(half_width=40, gap=0.3, centre=(200, 375)),
        paint_mouth(half_width=40, gap=0.3, centre=(200, -15)),
        paint_mouth(half_width=40, gap=0.3, centre=(435, 200), tilt_degrees=30),
    ],
    ids=["tiny", "tilted", "left-border", "corner", "outside", "speck", "below", "above", "beside"],
)
def test_unusual_portraits_are_drawn(mouth: PaintedMouth) -> None:
    renderer = renderer_of(mouth)
    rng = np.random.default_rng(1)
    for vector in rng.uniform(-0.1, 1.1, (20, 8)).astype(np.float32):
        drawn = mouth.picture.copy()
        renderer.draw(drawn, vector, smile=float(rng.uniform()))
        drawn[renderer.region.slices] = mouth.picture[renderer.region.slices]
        assert np.array_equal(drawn, mouth.picture), "nothing is drawn beyond the mouth"


def test_grey_portrait_stays_grey() -> None:
    mouth = paint_mouth(gap=0.3)
    luma = cv2.cvtColor(mouth.picture, cv2.COLOR_BGR2GRAY)
    grey = np.repeat(luma[..., None], 3, axis=2).astype(np.uint8)
    canvas = grey.copy()
    MouthRenderer(grey, mouth.points).draw(canvas, mouth_vector(open=1.0, jaw=1.0))
    colourfulness = canvas.astype(np.int16).max(axis=-1) - canvas.min(axis=-1)
    assert np.abs(canvas.astype(np.int16) - grey).max() > 40
    assert colourfulness.max() < 12


def test_drawing_is_repeatable_and_leaves_the_portrait_alone() -> None:
    mouth = paint_mouth(gap=0.3)
    before = mouth.picture.copy()
    renderer = renderer_of(mouth)
    first, second = before.copy(), before.copy()
    renderer.draw(first, mouth_vector(open=0.7, jaw=0.5))
    renderer.draw(second, mouth_vector(round=1.0))
    renderer.draw(second, mouth_vector(open=0.7, jaw=0.5))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(mouth.picture, before)


def test_wrong_inputs_are_refused() -> None:
    mouth = paint_mouth()
    renderer = renderer_of(mouth)
    with pytest.raises(ValueError, match="canvas must be"):
        renderer.draw(mouth.picture[:-1].copy(), mouth_vector())
    with pytest.raises(ValueError, match="canvas must be"):
        renderer.draw(mouth.picture.astype(np.float32), mouth_vector())
    with pytest.raises(ValueError, match="shape"):
        renderer.draw(mouth.picture.copy(), np.zeros(7, np.float32))


def test_lips_that_close_over_teeth_meet_in_shade_not_in_a_drawn_line() -> None:
    mouth = paint_mouth(gap=0.35)
    closed = render(mouth, press=0.1)
    middle = round(float(mouth.frame.centre[0]))
    rows = np.flatnonzero(is_lip(closed)[:, middle])
    across = closed[rows[0] + 3 : rows[-1] - 2, middle].astype(float)
    darkest = across[across.mean(axis=1).argmin()] / LIP
    assert 0.6 < darkest[2] < 0.95, "the lips do not flow into each other"
    assert darkest[0] < darkest[2] - 0.05, "a red shade"


def test_the_folds_of_a_smile_are_red_shade_and_grey_only_in_grey_pictures() -> None:
    mouth = paint_mouth()
    fold = np.zeros(mouth.picture.shape[:2], np.bool_)
    x, y = mouth.frame.to_picture(np.array([-1.15, 1.15], np.float32), np.array([-0.3, -0.3], np.float32))
    fold[y.round().astype(int), x.round().astype(int)] = True
    luma = cv2.cvtColor(mouth.picture, cv2.COLOR_BGR2GRAY)
    grey = replace(mouth, picture=np.repeat(luma[..., None], 3, axis=2).astype(np.uint8))
    kept = [
        (render(portrait, smile=1.0, press=0.1)[fold] / render(portrait, press=0.1)[fold]).mean(axis=0)
        for portrait in (mouth, grey)
    ]
    assert kept[0][0] < kept[0][2] - 0.02, "blue fades more than red"
    assert np.ptp(kept[1]) < 1e-6
    assert max(kept[0][0], kept[1][0]) < 0.98, "there is a fold"


def test_the_folds_of_a_smile_keep_off_the_mouth_corners() -> None:
    mouth = paint_mouth()
    u, v = np.linspace(-2, 2, 161, dtype=np.float32), np.linspace(-1, 1, 81, dtype=np.float32)
    renderer = renderer_of(mouth)
    command = MouthCommand.from_channels(mouth_vector(), smile=1.0)
    columns = MouthColumns.sample(renderer.anatomy, u)
    folds = MouthFolds(renderer.anatomy, u, v)
    shade = folds.shade(shape_mouth(renderer.anatomy, columns, command), command)
    assert shade is not None
    corner = (np.abs(np.abs(u) - 1.0) < 0.06)[None, :] & (np.abs(v) < 0.04)[:, None]
    assert shade.max() > 0.05, "there are folds"
    assert shade[corner].max() < 0.15 * shade.max(), "across the corner a fold looks like dirt"

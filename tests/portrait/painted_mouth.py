"""A painted portrait whose lips are known exactly, and pixel measurements of the lips in a frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.face_points import FacePoints
from liveavatar.engines.portrait.geometry import CornerFrame, Floats, Picture

SKIN, LIP, CAVITY, TEETH = (130, 160, 205), (85, 80, 175), (20, 18, 30), (205, 215, 220)
LIP_THICKNESS = 0.24
PointRows = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PaintedMouth:
    """A picture and the points of its mouth. `gap` is that of the painted lips, in half mouth widths."""

    picture: Picture
    points: FacePoints
    frame: CornerFrame
    gap: float


def lip_arc(u: Floats, height: float) -> Floats:
    """A lip edge: 0 at the corners, `height` in the middle."""
    return np.asarray(height * (1.0 - np.abs(np.clip(u, -1, 1)) ** 2.2), np.float32)


def paint_mouth(
    *,
    half_width: float = 60.0,
    gap: float = 0.0,
    bow: float = 0.0,
    tilt_degrees: float = 0.0,
    centre: tuple[float, float] = (200.0, 150.0),
    size: tuple[int, int] = (360, 400),
) -> PaintedMouth:
    """Paint skin with a little texture, two lips and, between parted ones, teeth above a dark cavity.

    The lips' middle lies `bow` half widths below their corners.
    """
    angle = np.deg2rad(tilt_degrees)
    half = half_width * np.array([np.cos(angle), np.sin(angle)])
    frame = CornerFrame.between(np.array(centre) - half, np.array(centre) + half)
    rows, columns = size
    v_grid = np.mgrid[0:rows, 0:columns].astype(np.float32)
    u, v = ((grid) for grid in _local(frame, v_grid))
    texture = 1.0 + 0.05 * np.sin(9 * u) * np.cos(7 * v) + 0.06 * u
    picture = np.array(SKIN, np.float32) * texture[..., None]
    between = np.abs(u) < 1
    upper, lower = lip_arc(u, bow - 0.3 * gap), lip_arc(u, bow + 0.7 * gap)
    thickness = lip_arc(u, LIP_THICKNESS)
    soft = 1.0 / half_width

    def lay(colour: tuple[int, int, int], top: Floats, bottom: Floats) -> None:
        cover = np.clip((v - top) / soft + 0.5, 0, 1) * np.clip((bottom - v) / soft + 0.5, 0, 1) * between
        picture[...] += (np.array(colour, np.float32) - picture) * cover[..., None]

    lay(LIP, upper - thickness, lower + thickness)
    lay(CAVITY, upper, lower)
    lay(TEETH, upper, np.minimum(upper + 0.16, lower))
    if gap == 0:
        lay((50, 40, 90), upper - 0.015, lower + 0.015)  # the line between closed lips
    return PaintedMouth(
        picture=np.clip(picture, 0, 255).astype(np.uint8),
        points=_points(frame, gap, bow),
        frame=frame,
        gap=gap,
    )


def _local(frame: CornerFrame, rows_and_columns: Floats) -> tuple[Floats, Floats]:
    y, x = rows_and_columns
    local = frame.to_local(np.stack([x, y], axis=-1))
    return local[..., 0].astype(np.float32), local[..., 1].astype(np.float32)


def _points(frame: CornerFrame, gap: float, bow: float) -> FacePoints:
    u = np.linspace(-0.75, 0.75, 7, dtype=np.float32)

    def pixels(u_values: Floats, v_values: Floats) -> PointRows:
        return np.stack(frame.to_picture(u_values, v_values), axis=-1).astype(np.float64)

    def pixel(u_value: float, v_value: float) -> PointRows:
        point = pixels(np.array([u_value], np.float32), np.array([v_value], np.float32))
        return point.reshape(2)

    upper, lower = lip_arc(u, bow - 0.3 * gap), lip_arc(u, bow + 0.7 * gap)
    thickness = lip_arc(u, LIP_THICKNESS)
    return FacePoints(
        mouth_left=pixel(-1, 0),
        mouth_right=pixel(1, 0),
        upper_lip_outer=pixels(u, upper - thickness),
        upper_lip_inner=pixels(u, upper),
        lower_lip_inner=pixels(u, lower),
        lower_lip_outer=pixels(u, lower + thickness),
        nose_base=pixel(0, -0.9),
        chin=pixel(0, 1.5 + 0.7 * gap),
        jaw_left=pixel(-1.8, 0.3),
        jaw_right=pixel(1.8, 0.3),
        eyes=(),
        head_centre=pixel(0, -1.5),
        head_radius=3.0 * frame.half_width,
    )


def is_lip(frame_picture: Picture) -> NDArray[np.bool_]:
    """Pixels whose hue is that of the painted lips, whatever their shade."""
    hsv = cv2.cvtColor(frame_picture, cv2.COLOR_BGR2HSV).astype(np.int16)
    reddish = (np.minimum(hsv[..., 0], 180 - hsv[..., 0]) <= 6) & (hsv[..., 1] > 100)
    return np.asarray(reddish & (hsv[..., 2] > 75), np.bool_)


def lip_gap_px(frame_picture: Picture, mouth: PaintedMouth) -> float:
    """Mean distance between the two lips over the middle columns (upright mouth); a tongue is no lip."""
    x = round(float(mouth.frame.centre[0]))
    gaps = []
    for column in range(x - 2, x + 3):
        rows = np.flatnonzero(is_lip(frame_picture)[:, column])
        assert rows.size > 0, f"no lip in column {column}"
        ends = np.flatnonzero(
            np.diff(rows) > 1
        )  # of the runs of lip hue: upper lip, perhaps tongue, lower lip
        gaps.append(int(rows[ends[-1] + 1] - rows[ends[0]] - 1) if ends.size else 0)
    return float(np.mean(gaps))


def mouth_width_px(frame_picture: Picture) -> int:
    """Columns between the first and the last lip pixel."""
    columns = np.flatnonzero(is_lip(frame_picture).sum(axis=0) >= 3)
    return int(columns[-1] - columns[0] + 1)

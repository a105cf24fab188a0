"""The local frame of a mouth or an eye, curves in it, and the region of the picture around it.

A *local frame* hangs between two corners (of a mouth, of an eye): `u` runs from corner to corner, -1 at the
left one and +1 at the right one, `v` runs at a right angle to it, downwards for an upright face. Both are
measured in half corner distances, so that sizes are those of the face, whatever the picture's resolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Picture = NDArray[np.uint8]  # (rows, columns, 3), blue green red

CURVE_REACH = 1.6  # curves are tabulated for u in -1.6 .. 1.6: a little beyond both corners
CURVE_SAMPLES = 641  # a step of 0.005: far below a pixel even for a mouth that fills the picture
SAMPLES_PER_UNIT = (CURVE_SAMPLES - 1) / (2 * CURVE_REACH)
MIN_CORNER_DISTANCE_PX = 1e-3  # below this the axis between the corners has no direction
MIN_KNOT_DISTANCE = 1e-3  # points nearer than this in u are one point measured twice


def floats(values: ArrayLike) -> Floats:
    """The values as float32, without a copy where they are so already."""
    return np.asarray(values, np.float32)


def smoothstep(values: ArrayLike, start: float | Floats = 0.0, end: float | Floats = 1.0) -> Floats:
    """Rise smoothly from 0 at `start` to 1 at `end` (which may be the smaller one: then it falls)."""
    ramp = np.clip((np.asarray(values, np.float32) - start) / (end - start), 0.0, 1.0)
    return floats(ramp * ramp * (3.0 - 2.0 * ramp))


def slant(v: Floats, u: Floats) -> Floats:
    """How much longer than wide the pieces of a curve v(u) are: 1 where it is level, up to 3 where it is steep.

    A band along the curve is so much thicker along v than across.
    """
    slope = np.gradient(v, u)
    return floats(np.minimum(np.sqrt(1.0 + slope * slope), 3.0))


def monotone_cubic(knots_x: ArrayLike, knots_y: ArrayLike, at: ArrayLike) -> Doubles:
    """Interpolate with the monotone cubic of Fritsch and Butland (1984): no overshoot, continuous slope.

    `knots_x` must rise strictly; outside it the end values are kept. Fewer than two knots give a constant.
    Raises `ValueError` when the knots are empty, unordered or of different lengths.
    """
    x, y = np.asarray(knots_x, np.float64), np.asarray(knots_y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or x.size == 0:
        raise ValueError(f"knots must be two equally long vectors, got shapes {x.shape} and {y.shape}")
    if np.any(np.diff(x) <= 0):
        raise ValueError(f"knots_x must rise strictly, got {x.tolist()}")
    position = np.clip(np.asarray(at, np.float64), x[0], x[-1])
    if x.size == 1:
        return np.full(position.shape, y[0])
    width = np.diff(x)
    secant = np.diff(y) / width
    slope = _monotone_slopes(width, secant)
    cell = np.clip(np.searchsorted(x, position, side="right") - 1, 0, x.size - 2)
    t = (position - x[cell]) / width[cell]
    start_value, end_value = y[cell], y[cell + 1]
    start_slope, end_slope = slope[cell] * width[cell], slope[cell + 1] * width[cell]
    return np.asarray(
        start_value * (1 + 2 * t) * (1 - t) ** 2
        + start_slope * t * (1 - t) ** 2
        + end_value * t * t * (3 - 2 * t)
        + end_slope * t * t * (t - 1),
        np.float64,
    )


def _monotone_slopes(width: Doubles, secant: Doubles) -> Doubles:
    """Slopes at the knots: weighted harmonic means inside (0 at a turning point), the secants at the ends."""
    slope = np.zeros(secant.size + 1)
    slope[0], slope[-1] = secant[0], secant[-1]
    before, after = secant[:-1], secant[1:]
    rising_or_falling = before * after > 0
    weight_before, weight_after = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    safe_before = np.where(rising_or_falling, before, 1.0)
    safe_after = np.where(rising_or_falling, after, 1.0)
    mean = (weight_before + weight_after) / (weight_before / safe_before + weight_after / safe_after)
    slope[1:-1] = np.where(rising_or_falling, mean, 0.0)
    return slope


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle of pixels, `x1` and `y1` excluded."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return max(0, self.x1 - self.x0)

    @property
    def height(self) -> int:
        return max(0, self.y1 - self.y0)

    @property
    def is_empty(self) -> bool:
        return self.width == 0 or self.height == 0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the rectangle in an array of rows and columns (a view, not a copy)."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def within(self, outer: Region) -> Region:
        """This rectangle in the coordinates of `outer`, for indexing a crop made with `outer.slices`."""
        return Region(
            x0=self.x0 - outer.x0, y0=self.y0 - outer.y0, x1=self.x1 - outer.x0, y1=self.y1 - outer.y0
        )

    def intersection(self, other: Region) -> Region:
        """The part that both rectangles share; may be empty."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        return Region(x0=x0, y0=y0, x1=max(x0, min(self.x1, other.x1)), y1=max(y0, min(self.y1, other.y1)))


@dataclass(frozen=True, kw_only=True)
class CornerFrame:
    """The local frame between two corners."""

    centre: Doubles  # (2,), pixels, half-way between the corners
    half_width: float  # pixels from the centre to a corner; the unit of u and v
    u_axis: Doubles  # (2,), unit vector towards the right corner
    v_axis: Doubles  # (2,), unit vector at a right angle, downwards in an upright face

    @classmethod
    def between(cls, left: ArrayLike, right: ArrayLike) -> CornerFrame:
        """Hang the frame between two points (x, y) in pixels. Raises `ValueError` when they coincide."""
        start, end = np.asarray(left, np.float64), np.asarray(right, np.float64)
        half = (end - start) / 2
        half_width = float(np.hypot(half[0], half[1]))
        if not half_width > MIN_CORNER_DISTANCE_PX:
            raise ValueError(f"the corners {start.tolist()} and {end.tolist()} coincide")
        u_axis = half / half_width
        return cls(
            centre=(start + end) / 2,
            half_width=half_width,
            u_axis=u_axis,
            v_axis=np.array([-u_axis[1], u_axis[0]]),
        )

    def to_local(self, points: ArrayLike) -> Doubles:
        """Turn pixels (..., 2) as (x, y) into local coordinates (..., 2) as (u, v)."""
        offset = (np.asarray(points, np.float64) - self.centre) / self.half_width
        return np.stack([offset @ self.u_axis, offset @ self.v_axis], axis=-1)

    def to_picture(self, u: Floats, v: Floats) -> tuple[Floats, Floats]:
        """Turn local coordinates into pixels: x and y in the shape of `u` and `v`."""
        ux, uy = (self.half_width * self.u_axis).astype(np.float32)
        vx, vy = (self.half_width * self.v_axis).astype(np.float32)
        x = np.float32(self.centre[0]) + u * ux + v * vx
        y = np.float32(self.centre[1]) + u * uy + v * vy
        return np.asarray(x, np.float32), np.asarray(y, np.float32)

    def region(
        self, *, u_range: tuple[float, float], v_range: tuple[float, float], picture_shape: tuple[int, ...]
    ) -> Region:
        """The smallest rectangle of pixels around a local box, cut at the picture's border; may be empty.

        `picture_shape` is that of the array: rows, columns, ...
        """
        corner_u, corner_v = np.meshgrid(np.array(u_range, np.float32), np.array(v_range, np.float32))
        x, y = self.to_picture(corner_u, corner_v)
        rows, columns = picture_shape[:2]
        x0, y0 = max(0, int(np.floor(x.min()))), max(0, int(np.floor(y.min())))
        return Region(
            x0=x0,
            y0=y0,
            x1=max(x0, min(columns, int(np.ceil(x.max())) + 1)),
            y1=max(y0, min(rows, int(np.ceil(y.max())) + 1)),
        )

    def columns_between(self, *, u_range: tuple[float, float], rows: tuple[int, int]) -> tuple[int, int]:
        """First column and the one after the last in which pixels of some `rows` have u in `u_range`.

        For frames tilted by less than about 80 degrees; then the answer is all columns there can be.
        """
        if abs(self.u_axis[0]) < 0.17:
            return 0, np.iinfo(np.int32).max
        u, y = np.meshgrid(np.array(u_range), np.array(rows, np.float64))
        x = self.centre[0] + (u * self.half_width - (y - self.centre[1]) * self.u_axis[1]) / self.u_axis[0]
        return int(np.floor(x.min())), int(np.ceil(x.max())) + 1

    def grid(self, region: Region) -> tuple[Floats, Floats]:
        """Local coordinates u and v of every pixel centre of `region`, each (height, width)."""
        x = np.arange(region.x0, region.x1, dtype=np.float64) - self.centre[0]
        y = np.arange(region.y0, region.y1, dtype=np.float64)[:, None] - self.centre[1]
        u = (x * self.u_axis[0] + y * self.u_axis[1]) / self.half_width
        v = (x * self.v_axis[0] + y * self.v_axis[1]) / self.half_width
        return u.astype(np.float32), v.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class TabulatedCurve:
    """A curve v(u) in a local frame, such as the edge of a lip or a lid; evaluating it is one look-up."""

    values: Floats  # (CURVE_SAMPLES,), v at u = -CURVE_REACH .. CURVE_REACH

    @staticmethod
    def sample_positions() -> Floats:
        """The u of every entry of `values`."""
        return np.linspace(-CURVE_REACH, CURVE_REACH, CURVE_SAMPLES, dtype=np.float32)

    @classmethod
    def through(cls, points: ArrayLike, *, end_margin: float = 0.02) -> TabulatedCurve:
        """Draw the curve through local points (N, 2) and the two corners (-1, 0) and (1, 0).

        Points not between the corners, or nearer than `end_margin` to one, are dropped; their order is free.
        Beyond the corners the curve is 0.
        """
        knots = np.asarray(points, np.float64).reshape(-1, 2)
        knots = knots[np.abs(knots[:, 0]) < 1 - end_margin]
        knots = np.vstack([[-1.0, 0.0], knots[np.argsort(knots[:, 0])], [1.0, 0.0]])
        is_new = np.concatenate([[True], np.diff(knots[:, 0]) > MIN_KNOT_DISTANCE])
        values = monotone_cubic(knots[is_new, 0], knots[is_new, 1], cls.sample_positions())
        return cls(values=values.astype(np.float32))

    def __call__(self, u: Floats) -> Floats:
        """v at every u of an array (any shape of at most two dimensions); the end value beyond the table."""
        position = np.atleast_2d((u + np.float32(CURVE_REACH)) * np.float32(SAMPLES_PER_UNIT)).astype(
            np.float32
        )
        table = self.values.reshape(1, -1)
        looked_up = cv2.remap(
            table, position, np.zeros_like(position), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(looked_up, np.float32).reshape(np.shape(u))

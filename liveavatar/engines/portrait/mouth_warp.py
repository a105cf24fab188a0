"""The smooth fields that carry skin and lips along with the mouth.

Every field lives on a coarse *lattice* of the local frame (columns along u, rows along v) and is stretched over
the pixels in one step. The map goes backwards: it says which point of the portrait a point of the frame shows. It
cannot fold: a row shift per column that rises along v, after a column shift that rises along u.

Two maps are made, one for everything above the lips' cut and one for everything below it. In the cheeks, beyond
the mouth corners, they are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.geometry import CornerFrame, Floats, Region, smoothstep
from liveavatar.engines.portrait.mouth_anatomy import MouthAnatomy
from liveavatar.engines.portrait.mouth_shape import MouthColumns, MouthShape

COLUMN_STEP, ROW_STEP = 0.025, 0.04  # of the lattice, in half mouth widths
SIDE_MARGIN = 0.75  # beyond the jaw's sides; there the picture stands still
CHEEK_BLEND_START, CHEEK_BLEND_END = 1.0, 1.15  # |u| between which lips turn into cheek
LEAST_COMPRESSION = 0.35  # skin between two rows never shrinks below this part of its height
SQUEEZE_FULL = 0.45  # |u| up to which the mouth narrows as a whole
SQUEEZE_TOP = -0.75  # v above which nothing narrows; a short philtrum would shear if it ended at the nose
SQUEEZE_REACH = (
    1.65  # |u| at which it has faded out: steeper would smear the cheek, wider bend the silhouette
)


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """The coarse grid of the local frame on which fields are computed."""

    u: Floats  # (columns,)
    v: Floats  # (rows,)

    @classmethod
    def around(cls, anatomy: MouthAnatomy) -> Lattice:
        left, right = anatomy.jaw_left_reach + SIDE_MARGIN, anatomy.jaw_right_reach + SIDE_MARGIN
        top, bottom = min(anatomy.nose_level, SQUEEZE_TOP) - 2 * ROW_STEP, anatomy.neck_level + 2 * ROW_STEP
        return cls(
            u=np.arange(-left, right + COLUMN_STEP, COLUMN_STEP, dtype=np.float32),
            v=np.arange(top, bottom + ROW_STEP, ROW_STEP, dtype=np.float32),
        )

    def column_of(self, u: Floats) -> Floats:
        """Fractional column of a lattice array at every u."""
        return np.asarray((u - self.u[0]) * np.float32(1.0 / COLUMN_STEP), np.float32)

    def pixel_to_lattice(self, frame: CornerFrame, region: Region) -> Floats:
        """The 2x3 matrix from pixels of `region` to (column, row) of the lattice, for `cv2.warpAffine`."""
        linear = np.stack([frame.u_axis / COLUMN_STEP, frame.v_axis / ROW_STEP]) / frame.half_width
        first = np.array([self.u[0] / COLUMN_STEP, self.v[0] / ROW_STEP])
        offset = linear @ (np.array([region.x0, region.y0]) - frame.centre) - first
        return np.column_stack([linear, offset]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class MouthFields:
    """Backward displacements on the lattice, in half mouth widths: portrait point minus frame point."""

    sideways: Floats  # (rows, columns), along u
    above: Floats  # (rows, columns), along v, valid above the lips' cut
    below: Floats  # (rows, columns), along v, valid below it


class MouthWarp:
    """Computes the fields of one portrait's mouth."""

    def __init__(self, anatomy: MouthAnatomy) -> None:
        self.anatomy = anatomy
        self.lattice = Lattice.around(anatomy)
        self.columns = MouthColumns.sample(anatomy, self.lattice.u)
        self.squeeze = squeeze_profile(anatomy, self.lattice.u, self.lattice.v[:, None])
        self._row_index = np.repeat(
            np.arange(self.lattice.v.size, dtype=np.float32)[:, None], self.lattice.u.size, axis=1
        )
        side = np.abs(self.lattice.u)
        self._cheek = smoothstep(side, CHEEK_BLEND_START, CHEEK_BLEND_END)
        self._beyond_corners = np.flatnonzero(side > CHEEK_BLEND_START)

    def fields(self, shape: MouthShape, width_scale: float) -> MouthFields:
        """Displace the lattice for one frame."""
        v = self.lattice.v[:, None]
        above, below = self._above_lips(shape, v), self._below_lips(shape, v)
        outer = self._beyond_corners
        cheek, weight = self._cheeks(shape, v, outer), self._cheek[outer]
        above[:, outer] += (cheek - above[:, outer]) * weight
        below[:, outer] += (cheek - below[:, outer]) * weight
        sideways = np.float32(1.0 / width_scale - 1.0) * self.squeeze
        if width_scale != 1.0:
            column = self.lattice.column_of(self.lattice.u + sideways)
            above, below = self._along_columns(above, column), self._along_columns(below, column)
        return MouthFields(sideways=sideways, above=above, below=below)

    def _along_columns(self, field: Floats, column: Floats) -> Floats:
        """Read every row of a field at shifted columns."""
        read = cv2.remap(field, column, self._row_index, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(read, np.float32)

    def _above_lips(self, shape: MouthShape, v: Floats) -> Floats:
        """Nose base stands still, the upper lip moves as one piece, the philtrum between them stretches."""
        nose = np.full_like(shape.upper_border, self.anatomy.nose_level)
        source = np.stack([nose, shape.upper_border_source, shape.upper_source])
        target = _keep_room(np.stack([nose, shape.upper_border, shape.edges.upper]), source)
        return _rows_shown(target, source, v) - np.maximum(v, nose)

    def _below_lips(self, shape: MouthShape, v: Floats) -> Floats:
        """The lower lip moves as one piece, the chin with the jaw, the neck stands still."""
        anatomy = self.anatomy
        neck = np.full_like(shape.lower_border, anatomy.neck_level)
        chin = np.full_like(neck, anatomy.chin_level)
        source = np.stack([shape.lower_source, shape.lower_border_source, chin, neck])
        target = np.stack([shape.edges.lower, shape.lower_border, chin + shape.jaw_drop, neck])
        target = _keep_room(target, source)
        return _rows_shown(target, source, v) - np.minimum(v, neck)

    def _cheeks(self, shape: MouthShape, v: Floats, outer: NDArray[np.intp]) -> Floats:
        """Beyond the corners there is no cut: nose level, lip line, chin and neck in one piece."""
        anatomy, line = self.anatomy, self.columns.upper_inner[outer]
        nose, chin, neck = (
            np.full_like(line, level)
            for level in (anatomy.nose_level, anatomy.chin_level, anatomy.neck_level)
        )
        source = np.stack([nose, line, chin, neck])
        target = np.stack([nose, shape.corner_line[outer], chin + shape.jaw_drop[outer], neck])
        target = _keep_room(target, source)
        return _rows_shown(target, source, v) - np.clip(v, nose, neck)


def squeeze_profile(anatomy: MouthAnatomy, u: Floats, v: Floats) -> Floats:
    """The sideways displacement for a mouth of half its width, at any u and v (broadcast together).

    It grows with |u| inside the mouth and fades out in the cheeks, slowly enough never to fold.
    """
    left, right = (max(SQUEEZE_REACH, reach) for reach in (anatomy.jaw_left_reach, anatomy.jaw_right_reach))
    along_u = u * smoothstep(-u, left, SQUEEZE_FULL) * smoothstep(u, right, SQUEEZE_FULL)
    nose, chin = anatomy.nose_level, anatomy.chin_level
    along_v = smoothstep(v, min(nose, SQUEEZE_TOP), 0.1 * nose) * smoothstep(v, 1.1 * chin, 0.3 * chin)
    return np.asarray(along_u * along_v, np.float32)


def _keep_room(target: Floats, source: Floats) -> Floats:
    """Hold the stretches of skin between still rows and moving rows open."""
    least = LEAST_COMPRESSION * np.diff(source, axis=0)
    for knot in range(1, len(target) - 1):
        target[knot] = np.maximum(target[knot], target[knot - 1] + least[knot - 1])
    for knot in range(len(target) - 2, 0, -1):
        target[knot] = np.minimum(target[knot], target[knot + 1] - least[knot])
    return target


def _rows_shown(target: Floats, source: Floats, v: Floats) -> Floats:
    """Interpolate monotonically: the row of the portrait shown at every v, per column.

    `target` and `source` are (knots, columns), both rising along the knots; `v` is (rows, 1). Beyond the first and
    the last knot the end row is kept.
    """
    height, rise = np.diff(target, axis=0), np.diff(source, axis=0)
    secant = rise / height
    slope = np.empty_like(target)
    slope[1:-1] = 2.0 * secant[:-1] * secant[1:] / (secant[:-1] + secant[1:])
    slope[0], slope[-1] = np.minimum(1.0, 3.0 * secant[0]), np.minimum(1.0, 3.0 * secant[-1])
    shown = np.repeat(source[:1], v.shape[0], axis=0)
    for k in range(len(height)):
        t = np.clip((v - target[k]) / height[k], 0.0, 1.0)
        start, end = slope[k] * height[k], slope[k + 1] * height[k]
        shown += t * (start + t * (3.0 * rise[k] - 2.0 * start - end + t * (start + end - 2.0 * rise[k])))
    return np.asarray(shown, np.float32)

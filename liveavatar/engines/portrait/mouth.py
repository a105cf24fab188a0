"""Draw the speaking mouth of one portrait.

`MouthRenderer` prepares everything that stays the same (curves, light, lattice) once; `draw` then costs a few
milliseconds per frame. The work is split by idea: `mouth_anatomy.py` knows where things are in the portrait,
`mouth_shape.py` where a command puts them, `mouth_warp.py` how skin follows, `mouth_interior.py` what lies between
the lips. This file turns fields into pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.face_points import FacePoints
from liveavatar.engines.portrait.geometry import Floats, Picture, Region, TabulatedCurve, floats, smoothstep
from liveavatar.engines.portrait.mouth_anatomy import measure_mouth
from liveavatar.engines.portrait.mouth_folds import MouthFolds
from liveavatar.engines.portrait.mouth_interior import InteriorView, MouthInterior
from liveavatar.engines.portrait.mouth_light import measure_light
from liveavatar.engines.portrait.mouth_shape import LipEdges, MouthCommand, MouthShape, shape_mouth
from liveavatar.engines.portrait.mouth_warp import CHEEK_BLEND_END, MouthFields, MouthWarp, squeeze_profile

LIP_BAND_MARGIN = 0.06  # half mouth widths around the opening that are drawn with the cut in mind
CONTACT_LINE_DARKENING = 0.28  # of lips that are closed here and parted in the portrait
LARGE_HALF_WIDTH_PX = 50.0  # above, the lattice is so much coarser than pixels that half of them suffice
CONTACT_LINE_WIDTH = 0.03


class MouthRenderer:
    """Moves the mouth of one portrait. Holds a copy of the picture; not for use by two threads at once."""

    def __init__(self, picture: Picture, points: FacePoints) -> None:
        """Prepare the portrait (rows, columns, 3), uint8, blue green red.

        Raises `ValueError` when the mouth corners of `points` coincide.
        """
        self._picture = np.ascontiguousarray(picture)
        self.anatomy = measure_mouth(self._picture, points)
        self._warp = MouthWarp(self.anatomy)
        frame, lattice = self.anatomy.frame, self._warp.lattice
        light = measure_light(self._picture, self.anatomy)
        self._skin_shade = light.skin_shade
        self._folds = MouthFolds(self.anatomy, lattice.u, lattice.v)
        self._interior = MouthInterior(self._picture, self.anatomy, light)
        self.region = frame.region(
            u_range=(float(lattice.u[0]), float(lattice.u[-1])),
            v_range=(float(lattice.v[0]), float(lattice.v[-1])),
            picture_shape=self._picture.shape,
        )
        self._u, self._v = frame.grid(self.region)
        self._squeeze = squeeze_profile(self.anatomy, self._u, self._v)
        columns = np.arange(self.region.x0, self.region.x1, dtype=np.float32)
        rows = np.arange(self.region.y0, self.region.y1, dtype=np.float32)
        self._pixel_positions = np.stack(np.meshgrid(columns, rows), axis=-1)
        self._contact_darkening = self._contact_line_darkening()

    def lip_edges(self, mouth: Floats, *, smile: float = 0.0) -> LipEdges:
        """Where the inner lip edges lie for a mouth vector (8,), in the order of `MOUTH_CHANNELS`."""
        return self._shape(MouthCommand.from_channels(mouth, smile)).edges

    def draw(self, canvas: Picture, mouth: Floats, *, smile: float = 0.0) -> None:
        """Draw the mouth into `canvas`, a copy of the portrait, in place.

        `mouth` is (8,) in the order of `MOUTH_CHANNELS`; only `self.region` of the canvas is written.
        Raises `ValueError` when the canvas has not the portrait's shape or `mouth` not 8 values.
        """
        if canvas.shape != self._picture.shape or canvas.dtype != np.uint8:
            raise ValueError(f"canvas must be uint8 {self._picture.shape}, got {canvas.dtype} {canvas.shape}")
        command = MouthCommand.from_channels(mouth, smile)
        if self.region.is_empty:
            return
        shape = self._shape(command)
        fields = self._warp.fields(shape, command.width_scale)
        shade = self._folds.shade(shape, command)
        band = self._lip_band(shape, command)
        region = self.region
        band_top, band_bottom = np.clip([band.y0, band.y1], region.y0, region.y1).tolist()
        upper_rows = Region(x0=region.x0, y0=region.y0, x1=region.x1, y1=band_bottom)
        lower_rows = Region(x0=region.x0, y0=band_top, x1=region.x1, y1=region.y1)
        upper = self._carry_skin(fields, fields.above, upper_rows)
        lower = self._carry_skin(fields, fields.below, lower_rows)
        self._deepen_folds(upper, upper_rows, shade)
        self._deepen_folds(lower, lower_rows, shade)
        canvas[upper_rows.slices] = upper
        canvas[lower_rows.slices] = lower
        if not band.is_empty:
            upper_skin = upper[band.within(upper_rows).slices]
            lower_skin = lower[band.within(lower_rows).slices]
            canvas[band.slices] = self._draw_band(upper_skin, lower_skin, band, shape, command)

    def _shape(self, command: MouthCommand) -> MouthShape:
        return shape_mouth(self.anatomy, self._warp.columns, command)

    def _lip_band(self, shape: MouthShape, command: MouthCommand) -> Region:
        """The pixels around the cut between the lips.

        In the rows of this band, all pixels whose skin depends on the side of the cut lie in its columns.
        """
        between = np.abs(shape.edges.u) <= 1.0
        top = float(shape.edges.upper[between].min()) - LIP_BAND_MARGIN
        bottom = float(shape.edges.lower[between].max()) + LIP_BAND_MARGIN
        reach = CHEEK_BLEND_END * max(1.0, command.width_scale) + LIP_BAND_MARGIN
        frame = self.anatomy.frame
        box = frame.region(u_range=(-reach, reach), v_range=(top, bottom), picture_shape=self._picture.shape)
        sides = frame.columns_between(u_range=(-reach, reach), rows=(box.y0, box.y1))
        return self.region.intersection(Region(x0=sides[0], y0=box.y0, x1=sides[1], y1=box.y1))

    def _carry_skin(self, fields: MouthFields, downwards: Floats, region: Region) -> Picture:
        """The portrait's skin, displaced, for all pixels of `region`."""
        if region.is_empty:
            return self._picture[region.slices]
        frame = self.anatomy.frame
        ux, uy = (frame.half_width * frame.u_axis).tolist()
        vx, vy = (frame.half_width * frame.v_axis).tolist()
        displacement = cv2.merge(
            [fields.sideways * ux + downwards * vx, fields.sideways * uy + downwards * vy]
        )
        offset = self._stretch(displacement, region)
        source = cv2.add(offset, self._pixel_positions[region.within(self.region).slices], dst=offset)
        no_second_map = np.empty(0, np.float32)  # `source` holds x and y
        carried = cv2.remap(
            self._picture, source, no_second_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(carried, np.uint8)

    def _deepen_folds(self, skin: Picture, region: Region, shade: Floats | None) -> None:
        """Darken the skin of `region` in place by a shade on the lattice."""
        if shade is None or region.is_empty:
            return
        dark = 255.0 * self._stretch(shade, region)
        kept = [(255.5 - share * dark).astype(np.uint8) for share in self._skin_shade]
        cv2.multiply(skin, cv2.merge(kept), dst=skin, scale=1 / 255)

    def _stretch(self, lattice_field: Floats, region: Region) -> Floats:
        """Interpolate a field of the lattice at the pixels of `region`, at half resolution where it is large."""
        shrink = 2 if self.anatomy.frame.half_width > LARGE_HALF_WIDTH_PX else 1
        columns, rows = -(-region.width // shrink), -(-region.height // shrink)
        to_lattice = self._warp.lattice.pixel_to_lattice(self.anatomy.frame, region)
        to_lattice[:, 2] += to_lattice[:, :2].sum(axis=1) * (shrink - 1) / 2  # to the middle of the block
        to_lattice[:, :2] *= shrink
        field = cv2.warpAffine(
            lattice_field,
            to_lattice,
            (columns, rows),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
        )
        if shrink > 1:
            field = cv2.resize(field, (columns * shrink, rows * shrink), interpolation=cv2.INTER_LINEAR)
        return np.ascontiguousarray(field[: region.height, : region.width], np.float32)

    def _draw_band(
        self, upper_skin: Picture, lower_skin: Picture, band: Region, shape: MouthShape, command: MouthCommand
    ) -> Picture:
        """Both lips and what is between them."""
        view = self._view(band, shape, command)
        pixel = self.anatomy.pixel
        upper_cover = np.clip((view.upper_edge - view.v) / pixel + 0.5, 0.0, 1.0)
        lower_cover = np.clip((view.v - view.lower_edge) / pixel + 0.5, 0.0, 1.0)
        inside = np.clip(1.0 - upper_cover - lower_cover, 0.0, 1.0)
        lower_cover = 1.0 - upper_cover - inside
        drawn = upper_skin * upper_cover[..., None]
        drawn += lower_skin * lower_cover[..., None]
        drawn *= 1.0 - self._contact_shade(view)[..., None] * self._skin_shade
        opening = _bounds(inside > 0.0)
        if not opening.is_empty:
            painted = self._interior.paint(view.crop(opening), shape, command)
            drawn[opening.slices] += painted * inside[opening.slices][..., None]
        return np.asarray(np.clip(drawn + 0.5, 0.0, 255.0), np.uint8)

    def _view(self, band: Region, shape: MouthShape, command: MouthCommand) -> InteriorView:
        """Where every pixel of the band is, and where the lips are at its column."""
        crop = band.within(self.region).slices
        u, v = self._u[crop], self._v[crop]
        column_u = u + np.float32(1.0 / command.width_scale - 1.0) * self._squeeze[crop]
        column = self._warp.lattice.column_of(column_u)
        first_row = np.zeros_like(column)

        def at_column(edge: Floats) -> Floats:
            table = edge.reshape(1, -1)
            return floats(
                cv2.remap(table, column, first_row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            )

        return InteriorView(
            region=band,
            u=u,
            v=v,
            column_u=column_u,
            upper_edge=at_column(shape.edges.upper),
            lower_edge=at_column(shape.edges.lower),
        )

    def _contact_line_darkening(self) -> TabulatedCurve:
        """How dark the line between closed lips must be painted: where the portrait's lips are parted."""
        u = TabulatedCurve.sample_positions()
        parted = smoothstep(self.anatomy.gap_values, 0.01, 0.06) * smoothstep(np.abs(u), 1.0, 0.9)
        return TabulatedCurve(values=np.asarray(CONTACT_LINE_DARKENING * parted, np.float32))

    def _contact_shade(self, view: InteriorView) -> Floats:
        """Shade of the line where the lips touch, 0..1."""
        gap = view.lower_edge - view.upper_edge
        middle = 0.5 * (view.lower_edge + view.upper_edge)
        width = np.float32(max(CONTACT_LINE_WIDTH, self.anatomy.pixel)) + 0.5 * gap
        near = np.exp(-(((view.v - middle) / width) ** 2)) * np.clip(1.0 - gap / 0.10, 0.0, 1.0)
        return np.asarray(near * self._contact_darkening(view.column_u), np.float32)


def _bounds(mask: NDArray[np.bool_]) -> Region:
    """The smallest rectangle around the marked pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return Region(x0=0, y0=0, x1=0, y1=0)
    return Region(x0=int(columns[0]), y0=int(rows[0]), x1=int(columns[-1]) + 1, y1=int(rows[-1]) + 1)

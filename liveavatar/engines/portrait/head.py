"""Move the head and the shoulders of a portrait in two and a half dimensions, in front of a still background.

The displacement of every pixel is a sum of six fixed fields (yaw, pitch, roll, sway to the side, sway up and down,
breath), each weighted by the pose. The fields are smooth and vanish at the picture's borders, so no border shows.

The head is a layer of its own. From the chin down the background follows it more and more, until beside the shoulders
both move as one piece: so things there bend a little, but never show twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from liveavatar.engines.portrait.backdrop import Mask
from liveavatar.engines.portrait.face_points import FacePoints
from liveavatar.engines.portrait.geometry import Floats, Picture, Region, smoothstep
from liveavatar.engines.portrait.matte import SHOULDERS, HeadCoordinates, Matte, cut_out_head
from liveavatar.engines.portrait.motion import FramePose

GRID_PX = 8  # the fields are smooth: one sample in eight pixels is enough
MAX_STRETCH = 0.8  # bound on the slope of the displacement; below 1 the warp cannot fold
PINNED_SIDES, PINNED_ENDS = 0.14, 0.08  # displacements fall to 0 over these shares of width and height
DEPTH = 0.9  # how far the middle of the face stands out, in head radii
DEPTH_REACH = 1.45  # distance from the head's middle at which depth reaches 0, in ellipse radii
PIVOT_B = 1.25  # the head turns about the top of the neck, in head radii below its centre
NARROWING = 0.5  # by how much nearer to the middle the head's hold ends at the neck than beside the face
BODY_SHARE = 0.40  # how much of the head's sway the shoulders follow
LARGEST_SHIFT = 0.2  # of the head from where it rests, in head radii
FIELD_NAMES = ("yaw", "pitch", "roll", "sway_x", "sway_y", "breath")


@dataclass(frozen=True, kw_only=True)
class _Fields:
    """Displacements in output pixels on a coarse grid."""

    displacement: Floats  # (6, grid rows, grid columns, 2) for a pose of 1 in each of FIELD_NAMES
    follows: Floats  # (grid rows, grid columns), 0 .. 1: how far the background goes along with the figure
    steepest: Floats  # (6,), bound on the slope of each field, per unit of pose


class HeadWarp:
    """Turns the canvas (with its mouth and eyes drawn) into a frame of the video, posed."""

    def __init__(self, canvas: Picture, points: FacePoints, width: int, height: int) -> None:
        """Prepare for a canvas (BGR) and the points in it; frames are `width` x `height` pixels."""
        rows, columns = canvas.shape[:2]
        self._size = (width, height)
        self._scale_x, self._scale_y = columns / width, rows / height
        matte = cut_out_head(canvas, points)
        self._has_matte = matte is not None
        output_points = points.transformed(
            np.array([[1 / self._scale_x, 0, 0], [0, 1 / self._scale_y, 0]], np.float64)
        )
        self._fields = _displacement_fields(output_points, width, height, head_moves_alone=self._has_matte)
        self._region = _moving_region(self._fields.displacement, width, height)
        self._still = self._sample(canvas, *self._rest_maps())
        self._behind: Picture | None = None  # background times (1 - alpha), in canvas pixels
        if matte is not None:
            self._prepare_layers(matte, reach=round(LARGEST_SHIFT * output_points.head_radius))

    def _prepare_layers(self, matte: Matte, reach: int) -> None:
        """`reach` is how many output pixels the head may move from where it rests."""
        veil = 1.0 - matte.alpha
        behind = matte.background.astype(np.float32) * veil[..., None] + 0.5
        self._behind = behind.astype(np.uint8)
        self._veil = np.round(255 * veil).astype(np.uint8)
        self._background = matte.background
        rest, region = self._rest_maps(), self._region
        self._still_background = np.ascontiguousarray(self._sample(matte.background, *rest)[region.slices])
        follows = cv2.resize(self._fields.follows, self._size, interpolation=cv2.INTER_LINEAR)[region.slices]
        around = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        may_show = cv2.dilate(self._sample(self._veil, *rest)[region.slices], around) > 0
        self._following_part = _bounds((follows > 0) & may_show)  # of the moving region
        self._follows = np.ascontiguousarray(follows[self._following_part.slices])

    def displacement(self, pose: FramePose) -> Floats:
        """How far each grid point of the frame moves: (grid rows, grid columns, 2) in output pixels.

        A pose that would stretch the picture too much is weakened until the warp cannot fold.
        """
        weights = np.array([getattr(pose, name) for name in FIELD_NAMES], np.float32)
        stretch = float(np.abs(weights) @ self._fields.steepest)
        if stretch > MAX_STRETCH:
            weights *= MAX_STRETCH / stretch
        return np.asarray(np.tensordot(weights, self._fields.displacement, axes=1), np.float32)

    def apply(self, canvas: Picture, pose: FramePose) -> Picture:
        """Return the frame (height, width, 3), BGR. `canvas` has the size and scale of the one given first."""
        region = self._region
        frame = self._still.copy()
        if region.is_empty:
            return frame
        rest_x, rest_y = (rest[region.slices] for rest in self._rest_maps())
        x, y = self._shifts(self.displacement(pose))
        map_x, map_y = rest_x - x, rest_y - y
        if self._behind is None:
            frame[region.slices] = self._sample(canvas, map_x, map_y)
            return frame
        # What moves is the head without its background; where the head is not, the background shows.
        without_background = np.asarray(cv2.subtract(canvas, self._behind), np.uint8)
        moving = self._sample(without_background, map_x, map_y)
        veil = cv2.cvtColor(self._sample(self._veil, map_x, map_y), cv2.COLOR_GRAY2BGR)
        showing = np.asarray(cv2.multiply(self._still_background, veil, scale=1 / 255), np.uint8)
        part = self._following_part.slices
        if not self._following_part.is_empty:
            following = self._sample(
                self._background,
                rest_x[part] - x[part] * self._follows,
                rest_y[part] - y[part] * self._follows,
            )
            showing[part] = cv2.multiply(following, veil[part], scale=1 / 255)
        frame[region.slices] = cv2.add(moving, showing)
        return frame

    def _shifts(self, displacement: Floats) -> tuple[Floats, Floats]:
        """How far each pixel of the moving region moves, x and y, in canvas pixels."""
        grown = cv2.resize(displacement, self._size, interpolation=cv2.INTER_LINEAR)[self._region.slices]
        return grown[..., 0] * np.float32(self._scale_x), grown[..., 1] * np.float32(self._scale_y)

    def _rest_maps(self) -> tuple[Floats, Floats]:
        width, height = self._size
        x = (np.arange(width, dtype=np.float32) + 0.5) * np.float32(self._scale_x) - 0.5
        y = (np.arange(height, dtype=np.float32) + 0.5) * np.float32(self._scale_y) - 0.5
        return np.broadcast_to(x[None, :], (height, width)), np.broadcast_to(y[:, None], (height, width))

    @staticmethod
    def _sample(picture: Picture, map_x: Floats, map_y: Floats) -> Picture:
        sampled = cv2.remap(
            picture,
            np.ascontiguousarray(map_x),
            np.ascontiguousarray(map_y),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(sampled, np.uint8)


def _displacement_fields(points: FacePoints, width: int, height: int, *, head_moves_alone: bool) -> _Fields:
    """Build the six fields for a face in output pixels.

    With `head_moves_alone` the background is taken care of, so the head moves as one piece with all its hair;
    otherwise the motion fades out close around the face, to disturb less of the background.
    """
    head = HeadCoordinates.of(points)
    x, y = _grid(width, height)
    a, b = head.to_head(x, y)
    follows = smoothstep(b, *SHOULDERS)
    upright = b / np.where(b < 0, 1.25, 1.15)
    ellipse = np.hypot(a, upright).astype(np.float32)
    from_middle = np.hypot((1 + NARROWING * follows) * a, upright).astype(np.float32)
    full_until, gone_at = (1.45, 2.6) if head_moves_alone else (0.95, 2.1)
    below_neck = smoothstep(b, 0.8, 2.0)
    head_weight = (1 - smoothstep(from_middle, full_until, gone_at)) * (1 - below_neck)
    shoulders = smoothstep(b, 0.7, 2.0) * (1 - smoothstep(b, 2.2, 4.2))
    body_weight = shoulders * (1 - smoothstep(np.abs(a), 1.4, 3.2))
    carried = np.maximum(head_weight, 0) + BODY_SHARE * body_weight
    depth = np.clip(1 - (ellipse / DEPTH_REACH) ** 2, 0, 1) ** 2 * (1 - smoothstep(b, 0.9, 2.0))
    pivot_b = b - PIVOT_B

    right, down = head.right.astype(np.float32), head.down.astype(np.float32)
    zero = np.zeros_like(a)
    along_right_and_down = {
        "yaw": (DEPTH * depth, zero),
        "pitch": (zero, DEPTH * depth),
        "roll": (-pivot_b * head_weight, a * head_weight),
        "sway_x": (carried, zero),
        "sway_y": (zero, carried),
        "breath": (zero, -(0.5 * head_weight + body_weight)),
    }
    window = _border_window(x, y, width, height)
    fields = []
    for name in FIELD_NAMES:
        across, along = along_right_and_down[name]
        vectors = across[..., None] * right + along[..., None] * down
        fields.append(np.float32(head.radius) * vectors * window[..., None])
    displacement = np.stack(fields).astype(np.float32)
    return _Fields(
        displacement=displacement,
        follows=follows,
        steepest=_steepest_slopes(displacement, width, height),
    )


def _grid(width: int, height: int) -> tuple[Floats, Floats]:
    """Pixel positions of a coarse grid that `cv2.resize` turns into one value per pixel."""
    columns, rows = max(2, -(-width // GRID_PX)), max(2, -(-height // GRID_PX))
    x = (np.arange(columns, dtype=np.float32) + 0.5) * (width / columns) - 0.5
    y = (np.arange(rows, dtype=np.float32) + 0.5) * (height / rows) - 0.5
    grid_x, grid_y = np.meshgrid(x, y)
    return grid_x.astype(np.float32), grid_y.astype(np.float32)


def _border_window(x: Floats, y: Floats, width: int, height: int) -> Floats:
    """0 at the picture's border, 1 inside, so that the borders hold still."""
    from_sides = np.minimum(x, width - 1 - x) / (PINNED_SIDES * width)
    from_ends = np.minimum(y, height - 1 - y) / (PINNED_ENDS * height)
    return np.asarray(smoothstep(from_sides) * smoothstep(from_ends), np.float32)


def _steepest_slopes(displacement: Floats, width: int, height: int) -> Floats:
    """For each field the largest norm of its Jacobian, in pixels per pixel."""
    rows, columns = displacement.shape[1:3]
    by_row = np.diff(displacement, axis=1) / (height / rows)
    by_column = np.diff(displacement, axis=2) / (width / columns)
    vertical = np.sqrt((by_row**2).sum(axis=-1)).max(axis=(1, 2))
    horizontal = np.sqrt((by_column**2).sum(axis=-1)).max(axis=(1, 2))
    return np.asarray(np.hypot(vertical, horizontal), np.float32)


def _moving_region(displacement: Floats, width: int, height: int) -> Region:
    """The rectangle of the frame in which anything can move."""
    largest = np.abs(displacement).max(axis=(0, 3))
    return _bounds(cv2.resize(largest, (width, height), interpolation=cv2.INTER_LINEAR) > 1e-3)


def _bounds(mask: Mask) -> Region:
    """The smallest rectangle around the true pixels; may be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return Region(x0=0, y0=0, x1=0, y1=0)
    return Region(x0=int(columns[0]), y0=int(rows[0]), x1=int(columns[-1]) + 1, y1=int(rows[-1]) + 1)

"""Fit a portrait into the video's rectangle: crop around the head, or extend the sides where that cuts it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.face_points import FacePoints
from liveavatar.engines.portrait.geometry import Picture

Matrix = NDArray[np.float64]

MAX_SUPERSAMPLING = 1.25  # canvas pixels per output pixel: sharper warps when the source has the detail
HEAD_ABOVE, HEAD_BELOW, HEAD_ASIDE = 1.55, 1.25, 1.10  # reach of a head with its hair, in head radii
ROOM_AROUND_HEAD = 1.15  # of a crop that is extended: the head should not touch its edges
HEAD_CENTRE_HEIGHT = 0.44  # where the head's centre should lie, from the top, as a share of the crop
MIN_KEPT_WITHOUT_FACE = 0.5  # a crop that keeps less of a picture might lose its subject
PICTURE_CENTRE_HEIGHT = 0.42  # without a face: subjects mostly stand a little above the middle
EXTENSION_BRIGHTNESS = 0.62
FEATHER = 0.03  # width of the soft border between picture and extension, as a share of the canvas


@dataclass(frozen=True, kw_only=True)
class FramedPortrait:
    """The part of a portrait that the video shows, at the size at which it is animated."""

    canvas: Picture  # (rows, columns, 3) BGR; 1 to MAX_SUPERSAMPLING times the output size
    matrix: Matrix  # (2, 3), from the pixels of the given picture to those of the canvas


@dataclass(frozen=True, kw_only=True)
class _Crop:
    """A rectangle in the pixels of the source picture; it may reach beyond the picture's borders."""

    left: float
    top: float
    width: float
    height: float


def frame_face(image_bgr: Picture, points: FacePoints, width: int, height: int) -> FramedPortrait:
    """Crop and scale so that the whole head shows; `width` x `height` is the size of the video in pixels.

    Raises `ValueError` when a size is not positive or the picture is not (rows, columns, 3).
    """
    _check(image_bgr, width, height)
    rows, columns = image_bgr.shape[:2]
    aspect = width / height
    head_height = (HEAD_ABOVE + HEAD_BELOW) * points.head_radius
    head_width = 2 * HEAD_ASIDE * points.head_radius
    head_x, head_y = (float(value) for value in points.head_centre)
    head_top = max(0.0, head_y - HEAD_ABOVE * points.head_radius)
    head_bottom = min(float(rows), head_y + HEAD_BELOW * points.head_radius)
    visible_head_height = min(head_height, head_bottom - head_top)
    visible_head_width = min(head_width, float(columns))

    crop_height = min(float(rows), columns / aspect)
    needed = max(visible_head_height, visible_head_width / aspect)
    if crop_height < needed:
        crop_height = max(needed, min(float(rows), ROOM_AROUND_HEAD * needed))
    crop_width = crop_height * aspect
    top = head_y - HEAD_CENTRE_HEIGHT * crop_height
    top = min(max(top, head_bottom - crop_height), head_top)
    crop = _Crop(
        left=_inside(head_x - crop_width / 2, crop_width, columns),
        top=_inside(top, crop_height, rows),
        width=crop_width,
        height=crop_height,
    )
    return _render(image_bgr, crop, width, height)


def frame_picture(image_bgr: Picture, width: int, height: int) -> FramedPortrait:
    """Crop and scale a picture in which no face is known.

    Raises `ValueError` when a size is not positive or the picture is not (rows, columns, 3).
    """
    _check(image_bgr, width, height)
    rows, columns = image_bgr.shape[:2]
    aspect = width / height
    crop_height = min(float(rows), columns / aspect)
    kept = crop_height * crop_height * aspect / (rows * columns)
    if kept < MIN_KEPT_WITHOUT_FACE:
        crop_height = max(float(rows), columns / aspect)
    crop_width = crop_height * aspect
    crop = _Crop(
        left=(columns - crop_width) / 2,
        top=_inside((rows - crop_height) * PICTURE_CENTRE_HEIGHT, crop_height, rows),
        width=crop_width,
        height=crop_height,
    )
    return _render(image_bgr, crop, width, height)


def _check(image_bgr: Picture, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ValueError(f"the size of the video must be positive, got {width} x {height}")
    if image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or image_bgr.size == 0:
        raise ValueError(f"expected a colour picture (rows, columns, 3), got shape {image_bgr.shape}")


def _inside(start: float, length: float, available: float) -> float:
    """Move an interval into 0 .. `available`, or centre it when it is longer."""
    if length >= available:
        return (available - length) / 2
    return min(max(start, 0.0), available - length)


def _render(image_bgr: Picture, crop: _Crop, width: int, height: int) -> FramedPortrait:
    """Scale the crop to the canvas, extending the picture where the crop reaches beyond it."""
    supersampling = float(np.clip(crop.width / width, 1.0, MAX_SUPERSAMPLING))
    canvas_columns, canvas_rows = round(width * supersampling), round(height * supersampling)
    scale = canvas_columns / crop.width
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(image_bgr, None, fx=scale, fy=scale, interpolation=interpolation)
    x_offset, y_offset = round(crop.left * scale), round(crop.top * scale)
    canvas = _cut_out(np.asarray(scaled, np.uint8), x_offset, y_offset, canvas_columns, canvas_rows)
    centre_shift = (scale - 1) / 2  # pixel centres lie at whole numbers, so scaling moves them by this much
    matrix = np.array([[scale, 0, centre_shift - x_offset], [0, scale, centre_shift - y_offset]])
    return FramedPortrait(canvas=canvas, matrix=matrix)


def _cut_out(scaled: Picture, x_offset: int, y_offset: int, columns: int, rows: int) -> Picture:
    """The rectangle at (x_offset, y_offset) of `scaled`; what lies outside is extended."""
    left, top = max(0, -x_offset), max(0, -y_offset)
    inside = scaled[max(0, y_offset) :, max(0, x_offset) :][: rows - top, : columns - left]
    right, bottom = columns - left - inside.shape[1], rows - top - inside.shape[0]
    if max(left, top, right, bottom) == 0:
        return np.ascontiguousarray(inside)
    if max(left, top, right, bottom) <= 2:  # the rounding of the scaled size
        return np.asarray(
            cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_REPLICATE), np.uint8
        )
    feather = max(2, round(FEATHER * max(columns, rows)))
    weight = np.zeros((rows, columns), np.float32)
    weight[top : rows - bottom, left : columns - right] = _feathered_window(
        inside.shape[1], inside.shape[0], feather, sides=left + right > 2, ends=top + bottom > 2
    )
    placed = cv2.copyMakeBorder(inside, top, bottom, left, right, cv2.BORDER_REPLICATE)
    extension = _blurred_backdrop(scaled, columns, rows)
    mixed = extension + (placed.astype(np.float32) - extension) * weight[..., None]
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def _feathered_window(
    columns: int, rows: int, feather: int, *, sides: bool, ends: bool
) -> NDArray[np.float32]:
    """1 inside, falling to 0 over `feather` pixels at left and right (`sides`), top and bottom (`ends`)."""
    x, y = np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)
    across = np.minimum(x, columns - 1 - x) / feather if sides else np.full(columns, 1.0, np.float32)
    along = np.minimum(y, rows - 1 - y) / feather if ends else np.full(rows, 1.0, np.float32)
    window = np.minimum(np.clip(along, 0, 1)[:, None], np.clip(across, 0, 1)[None, :])
    return np.asarray(window * window * (3 - 2 * window), np.float32)


def _blurred_backdrop(picture: Picture, columns: int, rows: int) -> NDArray[np.float32]:
    """The picture blown up over the whole canvas, out of focus and darker."""
    scale = max(columns / picture.shape[1], rows / picture.shape[0])
    small_columns, small_rows = max(1, columns // 8), max(1, rows // 8)
    cut_columns = min(picture.shape[1], max(1, round(columns / scale)))
    cut_rows = min(picture.shape[0], max(1, round(rows / scale)))
    left, top = (picture.shape[1] - cut_columns) // 2, (picture.shape[0] - cut_rows) // 2
    cut = picture[top : top + cut_rows, left : left + cut_columns]
    small = cv2.resize(cut, (small_columns, small_rows), interpolation=cv2.INTER_AREA)
    soft = cv2.GaussianBlur(small, (0, 0), max(1.0, 0.05 * small_columns))
    grown = cv2.resize(soft, (columns, rows), interpolation=cv2.INTER_CUBIC)
    return np.asarray(grown.astype(np.float32) * EXTENSION_BRIGHTNESS, np.float32)

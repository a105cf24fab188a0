"""Tell the head from what is behind it, so that the head can move in front of a background that stays still.

GrabCut, seeded by the face, gives the outline at a small size; a guided filter fits it to the hair; `backdrop` fills in
what the head hides.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from liveavatar.engines.portrait.backdrop import Mask, backdrop_behind, largest_channel
from liveavatar.engines.portrait.face_points import FacePoints, Points
from liveavatar.engines.portrait.geometry import Floats, Picture, Region, floats, smoothstep

logger = logging.getLogger(__name__)

# Sizes are in head radii; `a` runs to the right of the head, `b` from its centre down to the chin and beyond.
REACH_A, REACH_ABOVE, REACH_BELOW = 2.4, 2.2, 1.3  # the part of the picture in which the outline is sought
HEAD_AXES = (0.95, 1.15)  # half axes of the ellipse that most heads with their hair fill
FOREHEAD = 0.32  # how far skin surely goes on above the brows
SURE_BACKGROUND = 1.75  # beyond this many ellipse radii nothing belongs to the head
SHOULDERS = (0.60, 1.05)  # below this the outline is not trusted, nor needed: head and background move as one
SEARCH_RADIUS_PX = 40  # the head's radius at the size at which the outline is sought
GRABCUT_ROUNDS = 4
NUM_BACKGROUND_COLOURS = 8
DIFFERS_FROM_BACKGROUND = 16  # colour levels by which a pixel inside the ellipse must differ to be kept
PLAUSIBLE_AREA = (0.30, 2.6)  # of the ellipse's area
MIN_BACKGROUND = 0.30  # share of the ring around the head that the picture must show
MIN_CORE = 0.93  # share of the head's core that must be called head
PLAUSIBLE_LEAK = 0.30  # share of the outermost ring that may be called head


@dataclass(frozen=True, kw_only=True)
class HeadCoordinates:
    """Where a face's head lies in a canvas, and which way is up."""

    centre: Points  # (2,), pixels
    radius: float  # pixels
    right: Points  # (2,), unit vector
    down: Points  # (2,), unit vector from the head's centre towards the chin

    @classmethod
    def of(cls, points: FacePoints) -> HeadCoordinates:
        down = points.chin - points.head_centre
        length = float(np.hypot(down[0], down[1]))
        down = down / length if length > 1e-3 else np.array([0.0, 1.0])
        return cls(
            centre=points.head_centre,
            radius=max(float(points.head_radius), 1.0),
            right=np.array([down[1], -down[0]]),
            down=down,
        )

    def to_head(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Pixels to (a, b) in head radii."""
        dx, dy = (x - self.centre[0]) / self.radius, (y - self.centre[1]) / self.radius
        a = dx * self.right[0] + dy * self.right[1]
        b = dx * self.down[0] + dy * self.down[1]
        return a.astype(np.float32), b.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Matte:
    """The head as a layer over its background; both have the canvas's size."""

    alpha: Floats  # (rows, columns), 1 on the head and below the shoulders, 0 on the background
    background: Picture  # (rows, columns, 3), the canvas with the head filled in


def cut_out_head(canvas: Picture, points: FacePoints) -> Matte | None:
    """Find the head's outline, or `None` when what was found cannot be a head: then nothing must be cut.

    `canvas` is BGR; `points` are in its pixels.
    """
    head = HeadCoordinates.of(points)
    region = _search_region(head, canvas.shape)
    if min(region.width, region.height) < 8:
        return None
    scale = min(1.0, SEARCH_RADIUS_PX / head.radius)
    small = np.asarray(
        cv2.resize(canvas[region.slices], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
    )
    y, x = np.mgrid[: small.shape[0], : small.shape[1]].astype(np.float32)
    a, b = head.to_head((x + 0.5) / scale - 0.5 + region.x0, (y + 0.5) / scale - 0.5 + region.y0)
    face = _face_hull(points, region, scale, small.shape)
    ellipse = _ellipse_radius(a, b, points, head)
    is_head = _grabcut(small, face, ellipse, a, b)
    is_head = _keep_what_differs(small, is_head, face, ellipse, scale * head.radius)
    if not _is_plausible(is_head, ellipse, b, scale * head.radius):
        logger.info("the head could not be told from its background; the picture is moved as a whole")
        return None
    return _full_size_matte(canvas, region, is_head, head)


def _search_region(head: HeadCoordinates, shape: tuple[int, ...]) -> Region:
    """The picture's rectangle around everything that may belong to the head."""
    corners = np.array(
        [[-REACH_A, -REACH_ABOVE], [REACH_A, -REACH_ABOVE], [-REACH_A, REACH_BELOW], [REACH_A, REACH_BELOW]]
    )
    pixels = head.centre + head.radius * (corners[:, :1] * head.right + corners[:, 1:] * head.down)
    (x0, y0), (x1, y1) = pixels.min(axis=0), pixels.max(axis=0)
    left, top = max(0, int(x0)), max(0, int(y0))
    return Region(x0=left, y0=top, x1=max(left, min(shape[1], int(x1))), y1=max(top, min(shape[0], int(y1))))


def _face_hull(points: FacePoints, region: Region, scale: float, shape: tuple[int, ...]) -> Mask:
    """The pixels from the forehead to jaw and chin: head for certain."""
    down = HeadCoordinates.of(points).down
    forehead = [eye.brow - FOREHEAD * points.head_radius * down for eye in points.eyes]
    outline = np.vstack(
        [
            *forehead,
            *(np.vstack([eye.corner_left, eye.corner_right, eye.brow]) for eye in points.eyes),
            np.vstack(
                [points.mouth_left, points.mouth_right, points.jaw_left, points.jaw_right, points.chin]
            ),
            points.upper_lip_outer,
            points.lower_lip_outer,
        ]
    )
    small = ((outline - [region.x0, region.y0]) * scale).astype(np.float32)
    hull = cv2.convexHull(small).astype(np.int32)
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, hull, 1)
    return np.asarray(mask > 0)


def _ellipse_radius(a: Floats, b: Floats, points: FacePoints, head: HeadCoordinates) -> Floats:
    """Distance from the head's middle, 1 at the usual outline. Faces turned aside pull the middle with them."""
    face_middle = (points.jaw_left + points.jaw_right + points.nose_base) / 3
    face_a = float((face_middle - head.centre) @ head.right / head.radius)
    return np.asarray(np.hypot((a - 0.5 * face_a) / HEAD_AXES[0], (b + 0.1) / HEAD_AXES[1]), np.float32)


def _grabcut(small: Picture, face: Mask, ellipse: Floats, a: Floats, b: Floats) -> Mask:
    """Separate by colour, starting from the ellipse and a neck. Deterministic."""
    labels = np.full(small.shape[:2], cv2.GC_PR_BGD, np.uint8)
    labels[ellipse < 1] = cv2.GC_PR_FGD
    labels[(b > 0.8) & (np.abs(a) < 0.7)] = cv2.GC_PR_FGD
    labels[(ellipse > SURE_BACKGROUND) & (b < SHOULDERS[0])] = cv2.GC_BGD
    labels[face] = cv2.GC_FGD
    if not (np.any(labels == cv2.GC_FGD) and np.any(labels == cv2.GC_BGD)):
        return np.zeros(face.shape, bool)
    models = np.zeros((1, 65)), np.zeros((1, 65))  # OpenCV's own layout of a colour mixture
    cv2.setRNGSeed(1)  # GrabCut clusters colours from random starts
    whole = (0, 0, small.shape[1], small.shape[0])  # ignored: the labels say where to start
    cv2.grabCut(small, labels, whole, *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    return np.asarray((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))


def _keep_what_differs(small: Picture, is_head: Mask, face: Mask, ellipse: Floats, radius_px: float) -> Mask:
    """Give back to the head what lies in the ellipse and has no colour of the background near it.

    Pale hair and helmets are often taken for background. Losing a part of the head tears it; keeping a little
    background does no harm.
    """
    difference = _difference_from_nearby(small, ~is_head & (ellipse > 1.15), radius_px)
    lost = (difference > DIFFERS_FROM_BACKGROUND) & (ellipse < 1.0)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    whole = cv2.morphologyEx((is_head | lost).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    whole = cv2.morphologyEx(whole, cv2.MORPH_OPEN, kernel)
    whole[face] = 1
    _, components = cv2.connectedComponents(whole)
    in_face = components[face]
    connected = np.isin(components, np.unique(in_face[in_face > 0]))
    return _without_holes(connected)


def _difference_from_nearby(small: Picture, background: Mask, radius_px: float) -> Floats:
    """Distance of each pixel's colour to the nearest colour that the background has close to it, in levels."""
    colours = small.astype(np.float32)
    difference = np.full(small.shape[:2], 255.0, np.float32)
    samples = colours[background]
    if len(samples) < NUM_BACKGROUND_COLOURS:
        return np.zeros_like(difference)
    cv2.setRNGSeed(1)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 12, 1.0)
    unset = np.zeros((len(samples), 1), np.int32)
    _, label, centres = cv2.kmeans(samples, NUM_BACKGROUND_COLOURS, unset, stop, 1, cv2.KMEANS_PP_CENTERS)
    for index, centre in enumerate(np.asarray(centres)):
        has_colour = np.zeros(small.shape[:2], np.float32)
        has_colour[background] = np.asarray(label)[:, 0] == index
        is_near = cv2.GaussianBlur(has_colour, (0, 0), 0.4 * radius_px) > 0.02
        distance = np.abs(colours - centre).max(axis=2)
        difference = np.where(is_near, np.minimum(difference, distance), difference)
    return np.where(difference == 255.0, 0.0, difference).astype(np.float32)


def _without_holes(mask: Mask) -> Mask:
    """Fill every hole that does not touch the border."""
    padded = np.pad((~mask).astype(np.uint8), 1, constant_values=1)
    _, components = cv2.connectedComponents(padded, connectivity=4)
    return np.asarray(components[1:-1, 1:-1] != components[0, 0])


def _is_plausible(is_head: Mask, ellipse: Floats, b: Floats, radius_px: float) -> bool:
    """Whether this can be a head's outline, and enough background was in sight to find one."""
    above_shoulders = b < SHOULDERS[0]
    head_area = np.pi * HEAD_AXES[0] * HEAD_AXES[1] * radius_px**2
    area = float((is_head & above_shoulders).sum())
    around = above_shoulders & (ellipse > 1.2) & (ellipse < SURE_BACKGROUND)
    core = above_shoulders & (ellipse < 0.55)
    border = above_shoulders & (ellipse > 0.9 * SURE_BACKGROUND) & (ellipse < SURE_BACKGROUND)
    return (
        PLAUSIBLE_AREA[0] * head_area < area < PLAUSIBLE_AREA[1] * head_area
        and float(around.sum()) > MIN_BACKGROUND * head_area * (SURE_BACKGROUND**2 - 1.2**2)
        and _share(is_head, core) > MIN_CORE
        and _share(is_head, border) < PLAUSIBLE_LEAK
    )


def _share(mask: Mask, area: Mask) -> float:
    """How much of `area` the mask covers, 0 .. 1."""
    return float(mask[area].mean()) if area.any() else 0.0


def _full_size_matte(canvas: Picture, region: Region, is_head: Mask, head: HeadCoordinates) -> Matte:
    """Fit the small outline to the canvas's own edges and fill in the background."""
    crop = canvas[region.slices]
    size = (region.width, region.height)
    coarse = floats(cv2.resize(is_head.astype(np.float32), size, interpolation=cv2.INTER_LINEAR))
    fine = smoothstep(_guided_filter(crop, coarse, max(2, round(0.06 * head.radius))), 0.12, 0.88)
    margin = 2 * max(1, round(0.025 * head.radius)) + 1
    touched = cv2.dilate(np.maximum(fine, coarse), np.ones((margin, margin), np.uint8)) >= 0.02
    filled = backdrop_behind(crop, np.asarray(touched), head.radius)
    rows, columns = canvas.shape[:2]
    _, b = head.to_head(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32)[:, None])
    alpha = (b > SHOULDERS[1]).astype(np.float32)
    alpha[region.slices] = np.maximum(alpha[region.slices], np.maximum(fine, _least_alpha(crop, filled)))
    background = canvas.copy()
    background[region.slices] = filled
    return Matte(alpha=alpha, background=background)


def _least_alpha(picture: Picture, background: Picture) -> Floats:
    """The smallest alpha with which a colour of 0 .. 255 over `background` can give `picture`.

    So taking the background's share away and putting it back, as a head at rest does, gives the picture unchanged.
    """

    def share(change: MatLike, largest_change: MatLike) -> MatLike:
        return cv2.divide(change, cv2.max(largest_change, np.ones_like(picture)), dtype=cv2.CV_32F)

    darker = share(cv2.subtract(background, picture), background)
    brighter = share(cv2.subtract(picture, background), cv2.bitwise_not(background))
    return floats(largest_channel(cv2.max(darker, brighter)))


def _guided_filter(picture: Picture, mask: Floats, radius: int) -> Floats:
    """Move the mask's edge to the picture's own edge (He, Sun and Tang 2010, grey guide)."""
    guide = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255

    def mean(values: NDArray[np.floating]) -> Floats:
        return np.asarray(cv2.blur(values, (2 * radius + 1, 2 * radius + 1)), np.float32)

    mean_guide, mean_mask = mean(guide), mean(mask)
    variance = mean(guide * guide) - mean_guide * mean_guide
    covariance = mean(guide * mask) - mean_guide * mean_mask
    slope = covariance / (variance + 1e-4)
    offset = mean_mask - slope * mean_guide
    return np.asarray(np.clip(mean(slope) * guide + mean(offset), 0, 1), np.float32)

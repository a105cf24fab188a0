"""A drawn portrait whose every point is known, for the renderer's tests."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.face_points import EyePoints, FacePoints

Picture = NDArray[np.uint8]

SKIN, HAIR, SHIRT, LIPS = (150, 180, 225), (30, 45, 70), (160, 90, 40), (110, 110, 200)


def drawn_face(
    width: int = 360,
    height: int = 200,
    *,
    radius: float = 48.0,
    middle: tuple[float, float] | None = None,
    wall: Picture | None = None,
) -> tuple[Picture, FacePoints]:
    """Draw a face in front of a wall, patterned if none is given; `radius` is the head's, in pixels."""
    centre = np.array(middle if middle is not None else (width / 2, 0.45 * height))
    picture = _wall(width, height) if wall is None else wall.copy()

    def at(a: float, b: float) -> tuple[int, int]:
        x, y = centre + radius * np.array([a, b])
        return round(float(x)), round(float(y))

    def size(a: float, b: float) -> tuple[int, int]:
        return max(1, round(a * radius)), max(1, round(b * radius))

    cv2.ellipse(picture, at(0, 2.6), size(1.9, 1.5), 0, 0, 360, SHIRT, -1, cv2.LINE_AA)
    cv2.ellipse(picture, at(0, 1.1), size(0.35, 0.6), 0, 0, 360, SKIN, -1, cv2.LINE_AA)
    cv2.ellipse(picture, at(0, -0.2), size(0.95, 1.05), 0, 0, 360, HAIR, -1, cv2.LINE_AA)
    cv2.ellipse(picture, at(0, 0.05), size(0.75, 0.88), 0, 0, 360, SKIN, -1, cv2.LINE_AA)
    for side in (-0.32, 0.32):
        cv2.ellipse(picture, at(side, -0.12), size(0.17, 0.09), 0, 0, 360, (245, 245, 245), -1, cv2.LINE_AA)
        cv2.circle(picture, at(side, -0.12), max(1, round(0.07 * radius)), (60, 40, 30), -1, cv2.LINE_AA)
        cv2.ellipse(picture, at(side, -0.36), size(0.20, 0.04), 0, 0, 360, HAIR, -1, cv2.LINE_AA)
    cv2.ellipse(picture, at(0, 0.48), size(0.27, 0.09), 0, 0, 360, LIPS, -1, cv2.LINE_AA)
    cv2.line(picture, at(-0.27, 0.48), at(0.27, 0.48), (60, 50, 110), 1, cv2.LINE_AA)
    return picture, _points(centre, radius)


def _wall(width: int, height: int) -> Picture:
    """Stripes and a gradient: any motion of the background would show."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    stripes = 18 * ((x // 9) % 2) + 0.15 * y
    return np.clip(np.stack([190 + 0 * stripes, 170 + stripes, 140 + stripes], axis=-1), 0, 255).astype(
        np.uint8
    )


def _points(centre: NDArray[np.float64], radius: float) -> FacePoints:
    def at(a: float, b: float) -> NDArray[np.float64]:
        return np.asarray(centre + radius * np.array([a, b]))

    def arc(a: float, b: float, half_width: float, rise: float, count: int) -> NDArray[np.float64]:
        u = np.linspace(-1, 1, count + 2)[1:-1]
        return np.stack([at(a + half_width * t, b + rise * np.sqrt(1 - t * t)) for t in u])

    eyes = tuple(
        EyePoints(
            corner_left=at(side - 0.17, -0.12),
            corner_right=at(side + 0.17, -0.12),
            upper_lid=arc(side, -0.12, 0.17, -0.09, 5),
            lower_lid=arc(side, -0.12, 0.17, 0.09, 5),
            brow=at(side, -0.36),
        )
        for side in (-0.32, 0.32)
    )
    return FacePoints(
        mouth_left=at(-0.27, 0.48),
        mouth_right=at(0.27, 0.48),
        upper_lip_outer=arc(0, 0.48, 0.27, -0.09, 7),
        upper_lip_inner=arc(0, 0.48, 0.27, -0.01, 7),
        lower_lip_inner=arc(0, 0.48, 0.27, 0.01, 7),
        lower_lip_outer=arc(0, 0.48, 0.27, 0.09, 7),
        nose_base=at(0, 0.26),
        chin=at(0, 0.91),
        jaw_left=at(-0.62, 0.45),
        jaw_right=at(0.62, 0.45),
        eyes=eyes,
        head_centre=at(0, 0),
        head_radius=radius,
    )

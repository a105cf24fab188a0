"""The points of one face, in pixels of the picture they were found in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EyePoints:
    """One eye. `corner_left` is the corner nearer the left edge of the picture."""

    corner_left: Points  # (2,)
    corner_right: Points  # (2,)
    upper_lid: Points  # (5, 2), left to right
    lower_lid: Points  # (5, 2), left to right
    brow: Points  # (2,), middle of the eyebrow


@dataclass(frozen=True, kw_only=True)
class FacePoints:
    """What the renderer needs to know of a face. Left and right are those of the picture, not of the person."""

    mouth_left: Points  # (2,), mouth corner
    mouth_right: Points  # (2,)
    upper_lip_outer: Points  # (7, 2), left to right, like the three below
    upper_lip_inner: Points  # (7, 2)
    lower_lip_inner: Points  # (7, 2)
    lower_lip_outer: Points  # (7, 2)
    nose_base: Points  # (2,)
    chin: Points  # (2,)
    jaw_left: Points  # (2,)
    jaw_right: Points  # (2,)
    eyes: tuple[EyePoints, ...]  # none, one or two
    head_centre: Points  # (2,)
    head_radius: float  # pixels; about half the height from chin to hairline

    def transformed(self, matrix: NDArray[np.floating]) -> FacePoints:
        """Return the points after the 2x3 similarity `matrix` (as given to `cv2.warpAffine`)."""
        linear, offset = np.asarray(matrix[:, :2], float), np.asarray(matrix[:, 2], float)
        scale = float(np.sqrt(abs(np.linalg.det(linear))))

        def move(points: Points) -> Points:
            return np.asarray(points @ linear.T + offset, np.float64)

        return FacePoints(
            **{
                name: move(getattr(self, name))
                for name in (
                    "mouth_left",
                    "mouth_right",
                    "upper_lip_outer",
                    "upper_lip_inner",
                    "lower_lip_inner",
                    "lower_lip_outer",
                    "nose_base",
                    "chin",
                    "jaw_left",
                    "jaw_right",
                    "head_centre",
                )
            },
            eyes=tuple(
                EyePoints(
                    corner_left=move(eye.corner_left),
                    corner_right=move(eye.corner_right),
                    upper_lid=move(eye.upper_lid),
                    lower_lid=move(eye.lower_lid),
                    brow=move(eye.brow),
                )
                for eye in self.eyes
            ),
            head_radius=self.head_radius * scale,
        )

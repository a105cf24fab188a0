"""Folds of the skin that deepen with the mouth: from nose to mouth corner, and between lower lip and chin.

Warped skin alone keeps the light of the portrait; a faint shade in the two folds tells the eye that the cheek has
bulged and the chin has turned. Lengths are in half mouth widths.
"""

from __future__ import annotations

import numpy as np

from liveavatar.engines.portrait.geometry import Floats, floats, smoothstep
from liveavatar.engines.portrait.mouth_anatomy import MouthAnatomy
from liveavatar.engines.portrait.mouth_shape import MouthCommand, MouthShape

# Deepest shade, as a part of the skin's brightness. More looks like dirt on smooth skin.
NASOLABIAL_SMILE, NASOLABIAL_WIDE, MENTOLABIAL_JAW = 0.10, 0.05, 0.06
NOSE_WING, FOLD_END = 0.66, 1.50  # |u| of the upper and lower end of the nasolabial fold
FOLD_END_LEVEL = 0.12  # v of its lower end, just outside and below the mouth corner
FOLD_WIDTH = 0.20
CHIN_FOLD_WIDTH, CHIN_FOLD_HALF_LENGTH = 0.15, 0.75
HIDDEN_CHEEK_REACH, OPEN_CHEEK_REACH = (
    1.35,
    1.75,
)  # jaw this near: the cheek is turned away, a shade would float
LEAST_SHADE = 0.004  # below one grey level


class MouthFolds:
    """Shade of the folds on the lattice of one portrait."""

    def __init__(self, anatomy: MouthAnatomy, u: Floats, v: Floats) -> None:
        self._u, self._v = u, v.reshape(-1, 1)
        self._anatomy = anatomy
        self._nasolabial = self._nasolabial_shade()

    def shade(self, shape: MouthShape, command: MouthCommand) -> Floats | None:
        """Darkening (rows, columns), 0..1, of one frame; `None` when there is none to see."""
        cheeks = NASOLABIAL_SMILE * command.smile + NASOLABIAL_WIDE * max(command.wide, 0.0)
        chin = MENTOLABIAL_JAW * float(smoothstep(shape.chin_drop, 0.05, 0.60))
        if cheeks + chin < LEAST_SHADE:
            return None
        shade = self._nasolabial * np.float32(cheeks)
        if chin >= LEAST_SHADE:
            shade += self._mentolabial_shade(shape) * np.float32(chin)
        return floats(shade)

    def _nasolabial_shade(self) -> Floats:
        """Two arcs, stronger in the middle, each as visible as its cheek."""
        anatomy = self._anatomy
        top = 0.85 * max(anatomy.nose_level, -1.2)
        along = (self._v - top) / (FOLD_END_LEVEL - top)
        arc = NOSE_WING + (FOLD_END - NOSE_WING) * np.clip(along, 0.0, 1.2) ** 1.3
        ends = smoothstep(along, 0.0, 0.45) * smoothstep(along, 1.25, 0.75)
        left, right = (
            np.exp(-(((side * self._u - arc) / FOLD_WIDTH) ** 2))
            * smoothstep(reach, HIDDEN_CHEEK_REACH, OPEN_CHEEK_REACH)
            for side, reach in ((-1.0, anatomy.jaw_left_reach), (1.0, anatomy.jaw_right_reach))
        )
        return floats((left + right) * ends)

    def _mentolabial_shade(self, shape: MouthShape) -> Floats:
        """A short arc under the lower lip."""
        border = float(np.interp(0.0, shape.edges.u, shape.lower_border))
        chin = self._anatomy.chin_level + shape.chin_drop
        level = border + 0.28 * max(chin - border, 0.0) - 0.15 * self._u**2
        across = np.exp(-(((self._v - level) / CHIN_FOLD_WIDTH) ** 2))
        return floats(across * smoothstep(np.abs(self._u), CHIN_FOLD_HALF_LENGTH, 0.1))

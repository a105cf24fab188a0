"""A drawing surface in face coordinates, with the dice that decide what is drawn.

Face coordinates: the origin lies a little below the eyes, one unit is half the width of the head, x runs
right and y runs down. Colours are BGR triples, 0..255.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]
Colour = NDArray[np.floating[Any]]

SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 pixel


class Dice:
    """Random choices with readable names."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def around(self, mean: float, deviation: float) -> float:
        return float(self.rng.normal(mean, deviation))

    def sign(self) -> int:
        return 1 if self.chance(0.5) else -1

    def colour(
        self, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
    ) -> Colour:
        """Draw a colour; hue in 0..180 (wraps round), saturation and value in 0..1."""
        hsv = np.array(
            [
                [
                    [
                        int(self.between(*hue)) % 180,
                        int(255 * np.clip(self.between(*saturation), 0, 1)),
                        int(255 * np.clip(self.between(*value), 0, 1)),
                    ]
                ]
            ],
            np.uint8,
        )
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0], np.float32)

    def any_colour(self, *, darkest: float = 0.0, strongest: float = 0.9) -> Colour:
        return self.colour((0, 180), (0, strongest), (darkest, 1))

    def noise(self, side: int, grain_pixels: float, octaves: int = 3) -> Floats:
        """Return smooth noise (side, side) around 0; `grain_pixels` is the size of the coarsest blotch."""
        total = np.zeros((side, side), np.float32)
        for octave in range(octaves):
            cells = min(side, max(2, int(side / grain_pixels * 2**octave)))
            coarse = self.rng.standard_normal((cells, cells)).astype(np.float32)
            total += 0.55**octave * cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        return total


class FaceCanvas:
    """A square float picture that is painted in face coordinates."""

    def __init__(self, dice: Dice, side: int = 256):
        self.dice = dice
        self.side = side
        self.unit_pixels = dice.between(0.24, 0.285) * side
        self.origin = np.array([side / 2, 0.475 * side], np.float32)
        self.image: Floats = np.zeros((side, side, 3), np.float32)
        rows, columns = np.mgrid[0:side, 0:side].astype(np.float32)
        self.x: Floats = (columns - self.origin[0]) / self.unit_pixels
        self.y: Floats = (rows - self.origin[1]) / self.unit_pixels

    def to_pixels(self, points: ArrayLike) -> Floats:
        return np.asarray(points, np.float32) * self.unit_pixels + self.origin

    def fill(
        self,
        outline: ArrayLike,
        colour: ArrayLike,
        *,
        opacity: float = 1.0,
        blur: float = 0.0,
        texture: Floats | None = None,
    ) -> Floats:
        """Fill a closed outline (N, 2); `blur` in pixels softens its edge. Return the mask, 0..1."""
        return self._paint(self.to_pixels(outline), colour, opacity, blur, 0, texture)

    def stroke(
        self, path: ArrayLike, colour: ArrayLike, width: float, *, opacity: float = 1.0, blur: float = 0.0
    ) -> None:
        """Draw an open path (N, 2); `width` and `blur` in pixels."""
        self._paint(self.to_pixels(path), colour, opacity, blur, max(1, round(width)), None)

    def _paint(
        self,
        pixels: Floats,
        colour: ArrayLike,
        opacity: float,
        blur: float,
        line_width: int,
        texture: Floats | None,
    ) -> Floats:
        """Blend `colour` over the box that the shape touches: most shapes are far smaller than the canvas."""
        mask = np.zeros((self.side, self.side), np.float32)
        margin = 3 + line_width + 3 * blur
        left, top = np.clip(np.floor(pixels.min(0) - margin), 0, self.side).astype(int)
        right, bottom = np.clip(np.ceil(pixels.max(0) + margin) + 1, 0, self.side).astype(int)
        if right <= left or bottom <= top:
            return mask
        coverage = np.zeros((bottom - top, right - left), np.uint8)
        fixed_point = np.round((pixels - [left, top]) * 2**SUBPIXEL_BITS).astype(np.int32)
        if line_width:
            cv2.polylines(coverage, [fixed_point], False, 255, line_width, cv2.LINE_AA, SUBPIXEL_BITS)
        else:
            cv2.fillPoly(coverage, [fixed_point], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        box = coverage.astype(np.float32) * (opacity / 255)
        if blur > 0:
            box = np.asarray(cv2.GaussianBlur(box, (0, 0), blur), np.float32)
        paint: Floats = np.asarray(colour, np.float32)
        if texture is not None:
            paint = paint * texture[top:bottom, left:right, None]
        region = self.image[top:bottom, left:right]
        region += (paint - region) * box[..., None]
        mask[top:bottom, left:right] = box
        return mask

    def ellipse(
        self,
        centre: ArrayLike,
        radii: tuple[float, float],
        colour: ArrayLike,
        *,
        degrees: float = 0.0,
        opacity: float = 1.0,
        blur: float = 0.0,
    ) -> Floats:
        """Fill an ellipse; centre and radii in face coordinates."""
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        x, y = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        outline = np.asarray(centre) + np.stack([x * cosine - y * sine, x * sine + y * cosine], 1)
        return self.fill(outline, colour, opacity=opacity, blur=blur)

    def shade(self, x: float, y: float, radii: tuple[float, float], gain: float) -> None:
        """Brighten (gain > 0) or darken a soft spot; radii in face coordinates."""
        reach = np.array([2.6 * radii[0], 2.6 * radii[1]], np.float32)
        centre = np.array([x, y], np.float32)
        left, top = np.clip(self.to_pixels(centre - reach), 0, self.side).astype(int)
        right, bottom = np.clip(self.to_pixels(centre + reach) + 1, 0, self.side).astype(int)
        if right <= left or bottom <= top:
            return
        across = np.exp(-(((self.x[:1, left:right] - x) / radii[0]) ** 2))
        down = np.exp(-(((self.y[top:bottom, :1] - y) / radii[1]) ** 2))
        self.image[top:bottom, left:right] *= (1 + gain * across * down)[..., None]

    def blend_from(self, other: Floats, mask: Floats) -> None:
        """Keep the present picture where `mask` is 1 and go back to `other` where it is 0."""
        self.image += (other - self.image) * (1 - mask)[..., None]


def between_curves(x: ArrayLike, upper: ArrayLike, lower: ArrayLike) -> Floats:
    """Return the closed outline between two curves over the same x."""
    x, upper, lower = np.asarray(x), np.asarray(upper), np.asarray(lower)
    return np.stack([np.r_[x, x[::-1]], np.r_[upper, lower[::-1]]], 1).astype(np.float32)

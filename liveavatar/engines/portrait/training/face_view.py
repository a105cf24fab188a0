"""From a flat drawn face to a camera picture of it: turn the head, crop, and spoil the image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from liveavatar.engines.portrait.landmark_net import CROP_PIXELS
from liveavatar.engines.portrait.training.face_canvas import Dice, FaceCanvas, Floats

CROP_REACH = 1.6  # a crop shows -1.6..1.6 units each way when nothing is jittered
INVERSION_STEPS = 7  # of the fixed-point search for the drawn point behind a pixel; 7 leave < 0.01 unit


class Camera:
    """A head turned by up to 48 degrees sideways and 25 up or down, seen from a jittered position."""

    def __init__(self, dice: Dice, *, nose_y: float):
        self.nose_y = nose_y
        yaw = np.radians(np.clip(dice.around(0, 20), -48, 48))
        pitch = np.radians(np.clip(dice.around(0, 10), -25, 25))
        roll = np.radians(dice.around(0, 11))
        self.yaw_cos, self.yaw_sin = np.cos(yaw), np.sin(yaw)
        self.pitch_cos, self.pitch_sin = np.cos(pitch), np.sin(pitch)
        self.roll_cos, self.roll_sin = np.cos(roll), np.sin(roll)
        self.zoom = dice.between(0.88, 1.18)
        self.shift = (dice.around(0, 0.10), dice.around(0, 0.10))

    def _turn(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Wrap the drawing on an ellipsoid with a nose, turn it, and drop the depth."""
        roundness = np.sqrt(np.clip(1.35 - (x / 1.05) ** 2 - (y / 1.55) ** 2, 0, None))
        nose = np.exp(-((x / 0.14) ** 2 + ((y - self.nose_y + 0.12) / 0.2) ** 2))
        depth = 0.85 * roundness + 0.16 * nose - 0.55
        turned_x = x * self.yaw_cos + depth * self.yaw_sin
        turned_depth = -x * self.yaw_sin + depth * self.yaw_cos
        return turned_x, y * self.pitch_cos - turned_depth * self.pitch_sin

    def points(self, drawn: ArrayLike) -> Floats:
        """Return where drawn points (N, 2) in face coordinates appear in the crop, in pixels."""
        drawn = np.asarray(drawn, np.float32)
        x, y = self._turn(drawn[:, 0], drawn[:, 1])
        seen = np.stack([x * self.roll_cos - y * self.roll_sin, x * self.roll_sin + y * self.roll_cos], 1)
        unit = (seen - self.shift) * self.zoom / CROP_REACH
        return ((unit + 1) / 2 * (CROP_PIXELS - 1)).astype(np.float32)

    def picture(self, canvas: FaceCanvas) -> Floats:
        """Return the crop (128, 128, 3) that the camera sees."""
        line = np.linspace(-1, 1, CROP_PIXELS, dtype=np.float32) * CROP_REACH / self.zoom
        across, down = np.meshgrid(line + self.shift[0], line + self.shift[1])
        wanted_x = (across * self.roll_cos + down * self.roll_sin).astype(np.float32)
        wanted_y = (-across * self.roll_sin + down * self.roll_cos).astype(np.float32)
        x, y = wanted_x.copy(), wanted_y.copy()
        for _ in range(INVERSION_STEPS):
            turned_x, turned_y = self._turn(x, y)
            x += 0.75 * (wanted_x - turned_x)
            y += 0.75 * (wanted_y - turned_y)
        pixels = canvas.to_pixels(np.stack([x, y], -1)).astype(np.float32)
        map_x, map_y = np.ascontiguousarray(pixels[..., 0]), np.ascontiguousarray(pixels[..., 1])
        seen = cv2.remap(canvas.image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(seen, np.float32)


def light_head(canvas: FaceCanvas, face_mask: Floats) -> None:
    """Light the face from one side, as if it were round; sometimes add a coloured second light."""
    dice = canvas.dice
    normal_x, normal_y = np.clip(canvas.x / 1.15, -1, 1), np.clip(canvas.y / 1.7, -1, 1)
    normal_z = np.sqrt(np.clip(1 - normal_x**2 - normal_y**2, 0.02, 1))
    light = dice.rng.normal(size=3)
    light[2] = abs(light[2]) + 0.35
    light /= np.linalg.norm(light)
    ambient = dice.between(0.25, 0.9)
    lambert = np.clip(normal_x * light[0] + normal_y * light[1] + normal_z * light[2], 0, 1)
    soft_mask = cv2.GaussianBlur(face_mask, (0, 0), 2)
    canvas.image *= (1 + (ambient + (1 - ambient) * 1.35 * lambert - 1) * soft_mask)[..., None]
    if dice.chance(0.3):
        tint = np.array([dice.between(0.5, 1.2), dice.between(0.6, 1.1), dice.between(0.6, 1.2)])
        reach = np.clip(canvas.x * dice.sign() + dice.between(-0.4, 0.6), 0, 1)
        canvas.image *= (1 + (tint - 1) * (soft_mask * reach)[..., None]).astype(np.float32)


def spoil(dice: Dice, picture: Floats) -> NDArray[np.uint8]:
    """Lower the resolution, blur, shift colours and add noise, each sometimes."""
    side = picture.shape[0]
    if dice.chance(0.25):
        share = dice.between(0.15, 0.6)
        small = cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
        picture = np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC))
    if dice.chance(0.4):
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), dice.between(0.3, 1.6)))
    picture = 255 * (np.clip(picture, 0, 255) / 255) ** dice.between(0.6, 1.6)
    picture = picture * dice.between(0.6, 1.3) + dice.between(-25, 25)
    picture = picture * (1 + 0.12 * dice.rng.standard_normal(3))
    if dice.chance(0.12):
        picture = np.repeat(picture.mean(2, keepdims=True), 3, axis=2)
    noise = dice.rng.standard_normal(picture.shape, np.float32)
    picture = picture + noise * dice.between(0, 9)
    return np.clip(picture, 0, 255).astype(np.uint8)

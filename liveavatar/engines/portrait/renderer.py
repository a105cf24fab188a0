"""Turn mouth values and poses into the frames of the video."""

from __future__ import annotations

import cv2
import numpy as np

from liveavatar.engines.portrait.eyes import EyeRenderer
from liveavatar.engines.portrait.face_points import FacePoints
from liveavatar.engines.portrait.framing import frame_face, frame_picture
from liveavatar.engines.portrait.geometry import Floats, Picture
from liveavatar.engines.portrait.head import HeadWarp
from liveavatar.engines.portrait.motion import MOUTH_CHANNELS, FramePose
from liveavatar.engines.portrait.mouth import MouthRenderer

JAW = MOUTH_CHANNELS.index("jaw")
STILL_ZOOM = 1.04  # the margin within which a picture without a face may move
STILL_JAW_ZOOM = 0.006
STILL_SHIFT = 0.008  # largest shift, as a share of the width and of the height
STILL_ROLL = 0.004  # radians; lifts a corner of a 2:1 picture by 0.4 % of its height


class PortraitRenderer:
    """Renders one portrait with a known face. Holds the picture; not for use by two threads at once."""

    def __init__(self, image_bgr: Picture, points: FacePoints, width: int, height: int) -> None:
        """Frame the portrait and prepare its layers.

        `image_bgr` is (rows, columns, 3) BGR of any size, `points` are in its pixels, and frames are
        `width` x `height` pixels. Raises `ValueError` for unusable sizes or a mouth without width.
        """
        framed = frame_face(image_bgr, points, width, height)
        points = points.transformed(framed.matrix)
        self._canvas = framed.canvas
        self._mouth = MouthRenderer(framed.canvas, points)
        self._eyes = EyeRenderer(framed.canvas, points)
        self._head = HeadWarp(framed.canvas, points, width, height)
        self._canvas_points = points
        self._output_per_canvas = width / framed.canvas.shape[1]

    @property
    def points(self) -> FacePoints:
        """The face in the pixels of a frame at rest."""
        scale = self._output_per_canvas
        return self._canvas_points.transformed(np.array([[scale, 0, 0], [0, scale, 0]], np.float64))

    def frame(self, mouth: Floats, pose: FramePose) -> Picture:
        """Render one frame: RGB (height, width, 3). `mouth` is (8,) in the order of `MOUTH_CHANNELS`."""
        canvas = self._canvas.copy()
        self._mouth.draw(canvas, mouth, smile=pose.smile)
        self._eyes.draw(canvas, pose)
        return np.asarray(cv2.cvtColor(self._head.apply(canvas, pose), cv2.COLOR_BGR2RGB), np.uint8)


class StillRenderer:
    """Renders a picture in which no face is known: all of it breathes and nods with the voice."""

    def __init__(self, image_bgr: Picture, width: int, height: int) -> None:
        """Frame the picture. Raises `ValueError` for unusable sizes."""
        framed = frame_picture(image_bgr, width, height)
        self._canvas = cv2.cvtColor(framed.canvas, cv2.COLOR_BGR2RGB)
        self._size = (width, height)

    def frame(self, mouth: Floats, pose: FramePose) -> Picture:
        """Render one frame: RGB (height, width, 3). The picture always covers the whole frame."""
        width, height = self._size
        rows, columns = self._canvas.shape[:2]
        jaw = float(np.clip(mouth[JAW], 0, 1))
        scale = (STILL_ZOOM + STILL_JAW_ZOOM * jaw) * width / columns
        roll = float(np.clip(0.15 * pose.roll, -STILL_ROLL, STILL_ROLL))
        shift_x = float(np.clip(0.15 * pose.sway_x + 0.03 * pose.yaw, -STILL_SHIFT, STILL_SHIFT))
        shift_y = float(
            np.clip(0.08 * pose.pitch + 0.1 * pose.sway_y - 0.2 * pose.breath, -STILL_SHIFT, STILL_SHIFT)
        )
        cosine, sine = scale * np.cos(roll), scale * np.sin(roll)
        linear = np.array([[cosine, -sine], [sine, cosine]])
        middle = np.array([(columns - 1) / 2, (rows - 1) / 2])
        target = np.array([(width - 1) / 2 + shift_x * width, (height - 1) / 2 + shift_y * height])
        matrix = np.column_stack([linear, target - linear @ middle])
        moved = cv2.warpAffine(
            self._canvas, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(moved, np.uint8)

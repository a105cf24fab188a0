"""What the portrait benchmarks share: pictures with their faces, voices with their motion."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray

from liveavatar.engines.portrait.clicks import points_from_clicks
from liveavatar.engines.portrait.face_finder import FaceFinder
from liveavatar.engines.portrait.face_points import FacePoints
from liveavatar.engines.portrait.head_motion import MotionPlan, plan_motion
from liveavatar.engines.portrait.motion import FPS, Floats, Style
from liveavatar.engines.portrait.renderer import PortraitRenderer, StillRenderer
from liveavatar.engines.portrait.speech_motion import SpeechAnalyser
from liveavatar.engines.portrait.voice_file import read_16k

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
VOICE_SUFFIXES = (".wav", ".flac", ".mp3")
FACE_SEARCH_S = 15.0
SAMPLE_RATE = 16_000

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A recording and how it moves a face."""

    path: Path
    mouth: Floats  # (T, 8)
    plan: MotionPlan


class Scenes:
    """Loads portraits and voices, each once."""

    def __init__(self, clicks_file: Path | None = None) -> None:
        """`clicks_file` is a JSON object {picture name: {mouth_left, mouth_right, chin, eyes}}, in 0 .. 1."""
        self._finder = FaceFinder()
        self._analyser = SpeechAnalyser()
        self._clicks: dict[str, Any] = json.loads(clicks_file.read_text()) if clicks_file else {}
        self._voices: dict[Path, Voice] = {}

    def voice(self, path: Path, *, seconds: float, style: Style, seed: int) -> Voice:
        """Analyse the first `seconds` of a recording."""
        if path not in self._voices:
            duration = min(seconds, soundfile.info(str(path)).duration)
            num_frames = max(1, int(duration * FPS))
            samples = read_16k(path, num_samples=num_frames * SAMPLE_RATE // FPS)
            motion = self._analyser.motion(samples)
            plan = plan_motion(motion.energy, motion.activity, style=style, seed=seed)
            self._voices[path] = Voice(path=path, mouth=motion.mouth, plan=plan)
        return self._voices[path]

    def face(self, path: Path, picture: Picture) -> FacePoints | None:
        """The clicked face of a picture, or else the one found, or else none."""
        clicks = self._clicks.get(path.name)
        if clicks is not None:
            size = (picture.shape[1], picture.shape[0])
            points: FacePoints = points_from_clicks(**clicks, image_size=size, image_bgr=picture)
            return points
        faces = self._finder.find_faces(picture, time_limit_s=FACE_SEARCH_S)
        return faces[0].points if faces else None

    def renderer(self, path: Path, size: tuple[int, int] | None) -> PortraitRenderer | StillRenderer:
        """Prepare a portrait for `size`, or for the standard size of its orientation."""
        picture = read_picture(path)
        width, height = size or standard_size(picture)
        points = self.face(path, picture)
        if points is None:
            return StillRenderer(picture, width, height)
        return PortraitRenderer(picture, points, width, height)


def read_picture(path: Path) -> Picture:
    """Read a picture as BGR. Raises `ValueError` when it is none."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{path} is not a readable picture")
    return np.asarray(picture, np.uint8)


def standard_size(picture: Picture) -> tuple[int, int]:
    """720*400, 400*720 or 512*512, whichever is nearest in shape."""
    rows, columns = picture.shape[:2]
    if columns > 1.2 * rows:
        return 720, 400
    return (400, 720) if rows > 1.2 * columns else (512, 512)


def parse_size(text: str) -> tuple[int, int]:
    """Read `WIDTH*HEIGHT`, as the command line gives it."""
    width, height = text.lower().replace("x", "*").split("*")
    return int(width), int(height)


def pictures_in(folder: Path) -> list[Path]:
    """All pictures of a folder, by name. Raises `ValueError` when there are none."""
    return _files_in(folder, PICTURE_SUFFIXES)


def voices_in(folder: Path) -> list[Path]:
    """All recordings of a folder, by name. Raises `ValueError` when there are none."""
    return _files_in(folder, VOICE_SUFFIXES)


def _files_in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not files:
        raise ValueError(f"{folder} holds no file ending in {', '.join(suffixes)}")
    return files


def voice_for(portrait: Path, voices: list[Path], index: int) -> Path:
    """The recording of the portrait's own name, else one in turn."""
    return next((voice for voice in voices if voice.stem == portrait.stem), voices[index % len(voices)])

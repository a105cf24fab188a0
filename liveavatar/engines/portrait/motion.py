"""The motion vocabulary that the audio net writes and the renderer reads: one value per video frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FPS = 25
MOUTH_CHANNELS = ("jaw", "open", "wide", "round", "press", "fv", "teeth", "tongue")

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class SpeechMotion:
    """What a voice does to a face, at 25 frames per second."""

    mouth: Floats  # (T, 8) in the order of MOUTH_CHANNELS; 0..1.05, `wide` -1..1.2
    energy: Floats  # (T,) RMS of the voice, full scale = 1
    activity: Floats  # (T,) 0 in silence .. 1 in speech


@dataclass(frozen=True, kw_only=True)
class FramePose:
    """Everything but the mouth, for one frame. Angles in radians, shifts in head radii."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    sway_x: float = 0.0
    sway_y: float = 0.0
    breath: float = 0.0
    brow: float = 0.0  # raise, in eye half-widths
    blink: float = 0.0  # 0 open .. 1 closed
    gaze_x: float = 0.0  # in eye half-widths
    gaze_y: float = 0.0
    smile: float = 0.0  # 0..1 lifts and widens the mouth corners


@dataclass(frozen=True, kw_only=True)
class Style:
    """How the prompt asked the person to behave. The defaults are an attentive presenter."""

    liveliness: float = 1.0  # 0.3 calm .. 1.6 lively; scales head, brows and sway
    smile: float = 0.0  # 0..1
    gaze_x: float = 0.0  # -1 the viewer's left .. 1 right
    gaze_y: float = 0.0  # -1 up .. 1 down

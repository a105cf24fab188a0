"""What the tests on graphics cards put into the app."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import numpy as np
from PIL import Image

from liveavatar.core.request import GenerationRequest
from tests.tiny_checkpoint import FOLDER_NAME, write_tiny_checkpoint


def tiny_checkpoint(folder: Path) -> Path:
    """Return the folder that LIVEAVATAR_TINY_CHECKPOINT names, where tests/golden is missing, or write it."""
    written = os.environ.get("LIVEAVATAR_TINY_CHECKPOINT")
    return Path(written).absolute() / FOLDER_NAME if written else write_tiny_checkpoint(folder)


def request_of(seconds: float, folder: Path, width: int, height: int, size: str) -> GenerationRequest:
    """Return a request for a video of a grey ramp and a humming voice."""
    picture, voice = folder / f"{width}x{height}.png", folder / f"{seconds}.wav"
    ramp = np.linspace(0, 255, height, dtype=np.uint8)
    Image.fromarray(np.stack([np.broadcast_to(ramp[:, None], (height, width))] * 3, axis=-1)).save(picture)
    time_s = np.arange(int(seconds * 16_000)) / 16_000
    sound = 0.3 * np.sin(2 * np.pi * 180 * time_s) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * time_s))
    with wave.open(str(voice), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return GenerationRequest(
        image_path=str(picture),
        audio_path=str(voice),
        prompt="she smiles",  # the tiny checkpoint takes 24 letters
        engine="s2v",
        size=size,
        whole_picture=True,
    )

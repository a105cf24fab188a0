"""Make one long video with the s2v engine on the processor and watch its memory: `python -m benchmarks.long_video`.

A tiny random checkpoint in the real layout, the app, the worker process, the encoder: everything but the size is real.
Prints one JSON object: resident memory of the worker over the video, and whether picture and sound are as long as the
voice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from benchmarks.portrait_acceptance import machine
from liveavatar.config import AppConfig
from liveavatar.core.request import GenerationRequest
from liveavatar.service.facade import Studio
from tests.tiny_checkpoint import write_tiny_checkpoint

_RATE = 16_000
_LOOK_S = 1.0


def main() -> None:
    """Make the video and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="length of the voice")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="liveavatar-") as name:
        result = {"machine": machine(), **measure(Path(name), options.seconds)}
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


def measure(folder: Path, seconds: float) -> dict[str, Any]:
    """Return how the video went."""
    config = AppConfig(data_dir=folder / "data", ckpt_dir=write_tiny_checkpoint(folder))
    studio = Studio(config)
    studio.start()
    try:
        request = GenerationRequest(
            image_path=str(_picture(folder / "picture.png")),
            audio_path=str(_voice(folder / "voice.wav", seconds)),
            prompt="she smiles",
            engine="s2v",
        )
        began = time.monotonic()
        job = studio.submit(request)
        seen: list[tuple[int, int]] = []  # pictures made, bytes
        while not (now := studio.job(job.id)).state.is_terminal:
            seen.append((now.frames_done, studio.engine_status().rss_bytes))
            time.sleep(_LOOK_S)
        video = studio.video_path(job.id)
        assert video is not None, now.diagnosis
        return {
            "voice_s": seconds,
            "took_s": round(time.monotonic() - began, 1),
            "state": now.state.value,
            "pictures": now.frames_done,
            **_lengths(video),
            "worker_resident_mb": _by_tenth(seen, now.num_frames),
        }
    finally:
        studio.close()


def _by_tenth(seen: list[tuple[int, int]], num_frames: int) -> list[float]:
    """Return the highest resident memory, in MB, of every tenth of the video."""
    tenths = np.zeros(10)
    for frames_done, num_bytes in seen:
        tenth = min(9, 10 * frames_done // num_frames)
        tenths[tenth] = max(tenths[tenth], num_bytes / 1e6)
    return [round(float(each), 1) for each in tenths]


def _lengths(video: Path) -> dict[str, float]:
    with av.open(str(video)) as container:
        streams = {"picture_s": container.streams.video[0], "sound_s": container.streams.audio[0]}
        return {
            name: round(float((stream.duration or 0) * (stream.time_base or 0)), 3)
            for name, stream in streams.items()
        } | {"file_mb": round(video.stat().st_size / 1e6, 1)}


def _picture(path: Path) -> Path:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    Image.fromarray(np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[:, None]), axis=-1)).save(
        path
    )
    return path


def _voice(path: Path, seconds: float) -> Path:
    time_s = np.arange(int(seconds * _RATE)) / _RATE
    soundfile.write(
        path, (0.3 * np.sin(2 * np.pi * 160 * time_s) * (time_s % 0.4 < 0.3)).astype(np.float32), _RATE
    )
    return path


if __name__ == "__main__":
    main()

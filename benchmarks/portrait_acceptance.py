"""Measure what the portrait engine renders against its acceptance limits, and print the results as JSON.

    python -m benchmarks.portrait_acceptance --portraits DIR --voices DIR [--seconds 10] [--size 720*400]
        [--clicks FILE.json] [--one-voice-each] [--out FILE.json]

Every portrait is rendered with every voice (or with one). Speeds are those of this machine as it is: the load
average says what else was running.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.portrait_scenes import Scenes, Voice, parse_size, pictures_in, voice_for, voices_in
from liveavatar.core.request import AUDIO_RATE
from liveavatar.engines.portrait.motion import FPS, MOUTH_CHANNELS, Floats, FramePose, Style
from liveavatar.engines.portrait.renderer import PortraitRenderer, StillRenderer
from liveavatar.media.encoder import StreamEncoder

OUTER_SHARE = 0.08
CLOSED = 0.99
LIMITS = {
    "fps_with_encoding": 25.0,
    "first_frame_s": 3.0,
    "rss_mib": 800.0,
    "blinks_per_minute": [10.0, 25.0],
    "closed_frames_per_blink": 1,
    "outer_psnr_db": 35.0,
    "closed_lip_gap_px": 1.0,
    "lip_gap_correlation": 0.95,
}

Picture = NDArray[np.uint8]


def measure(scenes: Scenes, portrait: Path, voice: Voice, size: tuple[int, int] | None) -> dict[str, Any]:
    """Render one portrait with one voice and measure everything."""
    started = time.perf_counter()
    renderer = scenes.renderer(portrait, size)
    first = renderer.frame(voice.mouth[0], voice.plan.pose(0))
    first_frame_s = time.perf_counter() - started
    processor_before = time.process_time()
    rendering_s, outer_psnr = render_all(renderer, voice, first)
    processor_s = time.process_time() - processor_before  # with the borders' measurement: a small part
    encoding_s = render_and_encode(renderer, voice, first.shape)
    num_frames = len(voice.mouth)
    result: dict[str, Any] = {
        "portrait": portrait.name,
        "voice": voice.path.name,
        "size": f"{first.shape[1]}*{first.shape[0]}",
        "face_found": isinstance(renderer, PortraitRenderer),
        "num_frames": num_frames,
        "first_frame_s": round(first_frame_s, 2),
        "fps": round(num_frames / rendering_s, 1),
        "processor_ms_per_frame": round(1000 * processor_s / num_frames, 1),  # little affected by other load
        "fps_with_encoding": round(num_frames / encoding_s, 1),
        **measure_blinks(voice.plan.blink),
    }
    if isinstance(renderer, PortraitRenderer):  # a picture without a face moves as a whole, borders too
        result["outer_psnr_db"] = round(float(outer_psnr.min()), 1)
        result["outer_psnr_mean_db"] = round(float(outer_psnr.mean()), 1)
        result.update(measure_lip_gap(renderer, voice))
    return result


def render_all(
    renderer: PortraitRenderer | StillRenderer, voice: Voice, first: Picture
) -> tuple[float, Floats]:
    """Render all frames: seconds it took, and the outer columns' PSNR (T,) against frame 0."""
    reference = outer_columns(first).astype(np.float32)
    started = time.perf_counter()
    outer = [outer_columns(renderer.frame(mouth, voice.plan.pose(i))) for i, mouth in enumerate(voice.mouth)]
    seconds = time.perf_counter() - started
    errors = np.array([np.mean((columns.astype(np.float32) - reference) ** 2) for columns in outer])
    return seconds, np.asarray(10 * np.log10(255**2 / np.maximum(errors, 1e-3)), np.float32)


def outer_columns(picture: Picture) -> Picture:
    """The columns nearest to the left and right border."""
    num_columns = max(1, round(OUTER_SHARE * picture.shape[1]))
    return np.hstack([picture[:, :num_columns], picture[:, -num_columns:]])


def render_and_encode(
    renderer: PortraitRenderer | StillRenderer, voice: Voice, shape: tuple[int, ...]
) -> float:
    """Seconds for rendering and encoding everything, sound included."""
    samples_per_frame = AUDIO_RATE // FPS
    sound = np.zeros(len(voice.mouth) * samples_per_frame, np.int16)
    with soundfile.SoundFile(str(voice.path)) as recording:
        mono = recording.read(len(sound), dtype="int16", always_2d=True)[:, 0]
    sound[: len(mono)] = mono  # of its own sample rate: only the cost matters here
    started = time.perf_counter()
    encoder = StreamEncoder(shape[1], shape[0])
    for index, mouth in enumerate(voice.mouth):
        picture = renderer.frame(mouth, voice.plan.pose(index))
        encoder.encode([picture], sound[index * samples_per_frame : (index + 1) * samples_per_frame])
    encoder.finish()
    return time.perf_counter() - started


def measure_blinks(blink: Floats) -> dict[str, Any]:
    """Blinks per minute of this voice, and for how many frames the eyes are shut in the shortest."""
    closed = np.concatenate([[0], (blink >= CLOSED).astype(int), [0]])
    starts, ends = np.flatnonzero(np.diff(closed) == 1), np.flatnonzero(np.diff(closed) == -1)
    lengths = ends - starts
    return {
        "blinks_per_minute": round(60 * FPS * len(starts) / len(blink), 1),
        "closed_frames_per_blink": int(lengths.min()) if len(lengths) else None,
    }


def measure_lip_gap(renderer: PortraitRenderer, voice: Voice) -> dict[str, Any]:
    """Count the pixels between the lips in rendered frames, by painting what lies there in one signal colour."""
    press, opening = MOUTH_CHANNELS.index("press"), MOUTH_CHANNELS.index("open")
    signal = np.array([255, 0, 255], np.float32)
    interior = renderer._mouth._interior
    original = interior.paint
    interior.paint = lambda view, *_: np.broadcast_to(signal, (*view.v.shape, 3))  # type: ignore[method-assign]
    try:
        gaps = np.array([signal_height(renderer, mouth) for mouth in voice.mouth])
    finally:
        interior.paint = original  # type: ignore[method-assign]
    pressed = voice.mouth[:, press] > 0.9
    commanded = voice.mouth[:, opening] * (1 - np.clip(voice.mouth[:, press], 0, 1))
    enough = gaps.std() > 0 and commanded.std() > 0
    return {
        "closed_lip_gap_px": round(float(gaps[pressed].max()), 2) if pressed.any() else None,
        "lip_gap_correlation": round(float(np.corrcoef(gaps, commanded)[0, 1]), 3) if enough else None,
        "largest_lip_gap_px": round(float(gaps.max()), 1),
    }


def signal_height(renderer: PortraitRenderer, mouth: Floats) -> float:
    """Height of the signal colour in pixels, in the column where it is highest. The head rests."""
    picture = renderer.frame(mouth, FramePose()).astype(np.float32)
    points = renderer.points
    reach = float(np.hypot(*(points.mouth_right - points.mouth_left)))
    x, y = ((points.mouth_left + points.mouth_right) / 2).tolist()
    top, left = max(0, int(y - reach)), max(0, int(x - reach / 2))
    mouth_area = picture[top : int(y + 1.5 * reach), left : int(x + reach / 2)]
    magenta = (np.minimum(mouth_area[..., 0], mouth_area[..., 2]) - mouth_area[..., 1]) / 255
    return float(np.clip((magenta - 0.2) / 0.8, 0, 1).sum(axis=0).max())


def machine() -> dict[str, Any]:
    """The day, the hardware and the versions that the numbers belong to."""
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in cpu_info.read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    packages = ("numpy", "opencv-python-headless", "torch", "av")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": model,
        "usable_cores": len(os.sched_getaffinity(0)),
        "opencv_threads": cv2.getNumThreads(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--portraits", type=Path, required=True)
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--size", help="WIDTH*HEIGHT; by default a standard size of the portrait's shape")
    parser.add_argument("--clicks", type=Path, help="JSON with clicked faces, by picture name")
    parser.add_argument("--one-voice-each", action="store_true")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    arguments = parser.parse_args()
    scenes = Scenes(arguments.clicks)
    voices = voices_in(arguments.voices)
    size = parse_size(arguments.size) if arguments.size else None
    before = machine()
    results = []
    for index, portrait in enumerate(pictures_in(arguments.portraits)):
        chosen = [voice_for(portrait, voices, index)] if arguments.one_voice_each else voices
        for path in chosen:
            voice = scenes.voice(path, seconds=arguments.seconds, style=Style(), seed=1)
            results.append(measure(scenes, portrait, voice, size))
    report = {
        "machine": before,
        "load_average_after": [round(load, 2) for load in os.getloadavg()],
        "limits": LIMITS,
        "rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "results": results,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main()

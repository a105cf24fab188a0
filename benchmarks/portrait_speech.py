"""Measure the portrait engine's speech analysis and print the results as JSON.

    python -m benchmarks.portrait_speech [--weights FILE] [--heldout DIR] [--voices DIR ...] [--long-minutes 30]

Scores on a voice that training never heard (the committed fixture; with --heldout also every held-out clip
that `training.speech_data` made), proxies on real recordings (which have no timed sounds), and speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from liveavatar.engines.portrait.mel import SAMPLE_RATE
from liveavatar.engines.portrait.motion import FPS, MOUTH_CHANNELS, Floats
from liveavatar.engines.portrait.phones import TimedSound, mouth_targets
from liveavatar.engines.portrait.speech_motion import DEFAULT_WEIGHTS, SpeechAnalyser
from liveavatar.engines.portrait.training.speech_scores import CLOSED_BELOW, best_lag, runs_of, score_tracks
from liveavatar.engines.portrait.voice_level import FRAME_SAMPLES

REPOSITORY = Path(__file__).resolve().parents[1]
FIXTURE = REPOSITORY / "tests" / "portrait" / "data" / "heldout_voice.flac"
VOICE_FOLDERS = (REPOSITORY / "assets" / "samples" / "voices", REPOSITORY.parent / "shared" / "samples")
OPEN = MOUTH_CHANNELS.index("open")
NOISE_RMS = 0.002  # added to synthetic clips, which are otherwise cleaner than any room


def read_voice(path: Path) -> Floats:
    """Decode a recording to mono float samples at 16 kHz."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]).astype(np.float32)


def score_fixture(analyser: SpeechAnalyser) -> dict[str, Any]:
    """Score the committed recording of the held-out voice."""
    described = json.loads(FIXTURE.with_suffix(".json").read_text(encoding="utf8"))
    sounds = [TimedSound(start_s=start, end_s=end, sound=sound) for start, end, sound in described["sounds"]]
    motion = analyser.motion(read_voice(FIXTURE))
    targets, classes = mouth_targets(sounds, len(motion.energy))
    return asdict(score_tracks([motion.mouth], [targets], [classes]))


def score_heldout(analyser: SpeechAnalyser, folder: Path) -> dict[str, Any]:
    """Score the held-out clips of `speech_data`, by synthesiser."""
    rng = np.random.default_rng(0)
    groups: dict[str, tuple[list[Any], list[Any], list[Any]]] = {}
    for file in sorted(folder.glob("heldout-*.npz")):
        data = np.load(file)
        ends = np.cumsum(data["lengths"])
        all_samples, all_targets, all_classes = data["samples"], data["targets"], data["classes"]
        for voice, start, end in zip(data["voices"], ends - data["lengths"], ends, strict=True):
            samples = all_samples[start * FRAME_SAMPLES : end * FRAME_SAMPLES].astype(np.float32) / 32768
            noisy = samples + NOISE_RMS * rng.standard_normal(len(samples)).astype(np.float32)
            tracks, targets, classes = groups.setdefault(
                "flite slt" if voice == "slt" else "espeak", ([], [], [])
            )
            tracks.append(analyser.motion(noisy).mouth)
            targets.append(all_targets[start:end].astype(np.float32) / 100 - 1)
            classes.append(all_classes[start:end].astype(np.int64))
    return {name: asdict(score_tracks(*group)) for name, group in groups.items()}


def describe_recording(analyser: SpeechAnalyser, path: Path) -> dict[str, Any]:
    """Return what can be said about a real recording without knowing its words."""
    motion = analyser.motion(read_voice(path))
    opening, energy = motion.mouth[:, OPEN], motion.energy
    level_db = 20 * np.log10(energy / np.percentile(energy, 95) + 1e-9)
    silent, speaking = level_db < -38, level_db > -20
    closed = (opening < CLOSED_BELOW) & (motion.activity > 0.5) & ~silent
    return {
        "seconds": round(len(energy) / FPS, 1),
        "open_energy_correlation": round(float(np.corrcoef(opening, energy)[0, 1]), 3),
        "lag_frames": best_lag(opening, energy),
        "open_in_silence": round(float(opening[silent].mean()), 4) if silent.any() else None,
        "silent_frames": int(silent.sum()),
        "open_in_speech": round(float(opening[speaking].mean()), 3),
        "open_in_speech_p95": round(float(np.percentile(opening[speaking], 95)), 3),
        "closures_per_s": round(len(runs_of(closed)) / (len(energy) / FPS), 2),
        "level_at_closures_db": round(float(level_db[closed].mean()), 1) if closed.any() else None,
        "level_in_speech_db": round(float(level_db[speaking].mean()), 1),
        "round_p95": round(float(np.percentile(motion.mouth[:, MOUTH_CHANNELS.index("round")], 95)), 3),
    }


def measure_speed(analyser: SpeechAnalyser, long_minutes: float) -> dict[str, Any]:
    """Time a whole minute and the first piece of a long recording."""
    minute = np.resize(read_voice(FIXTURE), 60 * SAMPLE_RATE)
    analyser.motion(minute)
    started = time.perf_counter()
    analyser.motion(minute)
    minute_s = time.perf_counter() - started
    long = np.resize(minute, round(long_minutes * 60 * SAMPLE_RATE))
    started = time.perf_counter()
    pieces = analyser.iter_motion(long)
    next(pieces)
    first_piece_s = time.perf_counter() - started
    for _ in pieces:
        pass
    long_s = time.perf_counter() - started
    return {
        "threads": torch.get_num_threads(),
        "times_real_time_one_minute": round(60 / minute_s),
        "long_minutes": long_minutes,
        "times_real_time_long": round(60 * long_minutes / long_s),
        "first_piece_of_long_s": round(first_piece_s, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--heldout", type=Path, help="folder with heldout-*.npz of training.speech_data")
    parser.add_argument(
        "--voices", type=Path, nargs="*", default=VOICE_FOLDERS, help="folders with recordings"
    )
    parser.add_argument("--long-minutes", type=float, default=30.0)
    options = parser.parse_args()
    analyser = SpeechAnalyser(options.weights)
    recordings = sorted(
        path
        for folder in options.voices
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.suffix in {".wav", ".flac", ".m4a", ".mp3"}
    )
    report: dict[str, Any] = {
        "weights": options.weights.name,
        "heldout_fixture": score_fixture(analyser),
        "recordings": {path.name: describe_recording(analyser, path) for path in recordings},
        "speed": measure_speed(analyser, options.long_minutes),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
        "hardware": {
            "machine": platform.machine(),
            "cpu_count": os.cpu_count(),
            "system": platform.platform(),
        },
    }
    if options.heldout:
        report["heldout_clips"] = score_heldout(analyser, options.heldout)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

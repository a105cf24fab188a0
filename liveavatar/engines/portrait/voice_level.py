"""How loud a voice is, and where it speaks: whole-file facts that cost almost nothing to compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from liveavatar.engines.portrait.mel import SAMPLE_RATE
from liveavatar.engines.portrait.motion import FPS, Floats

FRAME_SAMPLES = SAMPLE_RATE // FPS  # samples per video frame: 40 ms
SILENCE_DB = -66.0  # a recording whose loudest frames stay below this is taken as silent (full scale = 0 dB)
SPEECH_RANGE_DB = 35.0  # frames further below the loud ones are never speech
ABOVE_FLOOR_DB = 3.0  # nor are frames this close to the recording's own noise floor
RAMP_SHARE = (
    0.2  # of the range above the threshold leads from silence to certain speech: 7 dB in a quiet room
)
SHORTEST_RAMP_DB = 3.0
HOLD = (0.2, 0.05)  # activity one and two frames away from speech: stop consonants are silent inside words


@dataclass(frozen=True, kw_only=True)
class VoiceLevel:
    """Level of a whole recording. The arrays hold one value per video frame."""

    offset: float  # mean of the samples (DC)
    loud_rms: float  # RMS of the loud frames of the voice; 0 if the recording is silent
    energy: Floats  # (T,) RMS without the offset
    activity: Floats  # (T,) 0 in silence .. 1 in speech


def num_video_frames(num_samples: int) -> int:
    """Return how many video frames a recording lasts; a begun frame counts."""
    return -(-num_samples // FRAME_SAMPLES)


def measure_level(samples: Floats) -> VoiceLevel:
    """Measure a recording at 16 kHz. Raises ValueError if it is empty, not mono or not finite."""
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(f"expected mono samples, got an array of shape {samples.shape}")
    offset = float(samples.mean(dtype=np.float64))
    if not np.isfinite(offset):
        raise ValueError("the samples hold values that are not finite")
    energy = _frame_rms(samples, offset)
    level_db = 20 * np.log10(energy + 1e-9)
    loudest_db = float(np.percentile(level_db, 99.9))
    loud_db = float(np.percentile(level_db[level_db > loudest_db - 30], 90))
    if loud_db < SILENCE_DB:
        return VoiceLevel(offset=offset, loud_rms=0.0, energy=energy, activity=np.zeros_like(energy))
    # Digital silence between takes says nothing about the noise under the voice.
    floor_db = float(np.percentile(level_db[level_db > loud_db - 60], 5))
    threshold_db = max(floor_db + ABOVE_FLOOR_DB, loud_db - SPEECH_RANGE_DB)
    ramp_db = max(RAMP_SHARE * (loud_db - threshold_db), SHORTEST_RAMP_DB)
    speech = np.clip((level_db - threshold_db) / ramp_db, 0, 1)
    return VoiceLevel(
        offset=offset, loud_rms=10 ** (loud_db / 20), energy=energy, activity=_hold(speech.astype(np.float32))
    )


def voice_activity(samples: Floats) -> tuple[Floats, Floats]:
    """Return the energy (T,) and the activity (T,) of a 16 kHz recording, as `SpeechMotion` defines them."""
    level = measure_level(samples)
    return level.energy, level.activity


def _frame_rms(samples: Floats, offset: float) -> Floats:
    num_frames = num_video_frames(len(samples))
    whole = len(samples) // FRAME_SAMPLES
    # E[(x - m)^2] = E[x^2] - 2 m E[x] + m^2 needs no second copy of an hour of samples.
    blocks = samples[: whole * FRAME_SAMPLES].reshape(whole, FRAME_SAMPLES)
    power = np.empty(num_frames, np.float64)
    power[:whole] = np.einsum("ij,ij->i", blocks, blocks) / FRAME_SAMPLES
    power[:whole] += offset**2 - 2 * offset * blocks.mean(axis=1, dtype=np.float64)
    if whole < num_frames:
        rest = samples[whole * FRAME_SAMPLES :].astype(np.float64) - offset
        power[whole] = float(rest @ rest) / FRAME_SAMPLES
    return np.sqrt(np.maximum(power, 0)).astype(np.float32)


def _hold(speech: Floats) -> Floats:
    """Widen speech on both sides by HOLD, then round the corners."""
    held = speech.copy()
    for shift, strength in enumerate(HOLD, start=1):
        held[shift:] = np.maximum(held[shift:], speech[:-shift] * np.float32(strength))
        held[:-shift] = np.maximum(held[:-shift], speech[shift:] * np.float32(strength))
    padded = np.pad(held, 1, mode="edge")
    return np.asarray(0.15 * padded[:-2] + 0.7 * padded[1:-1] + 0.15 * padded[2:], np.float32)

"""From a recording to mouth motion: level, log-mel, net, then the rules that make lips close and rest.

The net sees one window of a recording at a time, with enough context on both sides that the result does not
depend on where windows begin. What must be known about the whole recording (level, the voice's mean
spectrum, its vocal tract, how far it opens the mouth) is measured first, on at most a minute of it, so an
hour of speech delivers its first frames as fast as a minute does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from liveavatar.engines.portrait.mel import MEL_MARGIN, log_mel
from liveavatar.engines.portrait.motion import FPS, MOUTH_CHANNELS, Floats, SpeechMotion
from liveavatar.engines.portrait.one_thread import one_thread
from liveavatar.engines.portrait.phones import BILABIAL_CLASS, LABIODENTAL_CLASS, SILENCE_CLASS
from liveavatar.engines.portrait.speech_net import (
    LEFT_CONTEXT_FRAMES,
    RIGHT_CONTEXT_FRAMES,
    SpeechNet,
    load_speech_net,
    loud_mean,
    normalise_mel,
    warp_bands,
)
from liveavatar.engines.portrait.voice_level import FRAME_SAMPLES, VoiceLevel, measure_level, voice_activity

__all__ = ["DEFAULT_WEIGHTS", "LOUD_RMS", "SpeechAnalyser", "voice_activity"]

DEFAULT_WEIGHTS = Path(__file__).parent / "weights" / "speech.safetensors"
LOUD_RMS = 0.15  # recordings are brought to this level of their loud frames before the net hears them
WINDOW_FRAMES = 20 * FPS  # video frames per pass of the net
EXCERPT_FRAMES = 5 * FPS
_TRACT_FACTORS = (0.88, 0.92, 0.96, 1.0, 1.04, 1.08, 1.12)  # training heard 0.86 to 1.16
_TRACT_MEL_FRAMES = 2000  # 20 s decide about the vocal tract
NUM_EXCERPTS = 12  # a minute of active speech is enough to know a voice

_SMOOTHING_FRAMES = 3  # how far `shape_mouth` looks to each side: the widest kernel and one frame of silence
_FULL_OPENING = 0.80  # where the widest vowels of every voice should come out
_MAX_OPENING_GAIN = 1.6
_ROUNDING_GAIN = 1.2  # voices that training did not hear come out less rounded than their sounds ask for
_SILENCE_SHUTS = 0.85  # how much of the mouth the net's certainty of silence may take back
# From "perhaps" to "certainly": class probabilities, and the net's own press channel.
_BILABIAL_RANGE = (0.25, 0.65)
_PRESS_RANGE = (0.50, 0.80)
_LABIODENTAL_RANGE = (0.30, 0.70)
_JAW, _OPEN, _WIDE, _ROUND, _PRESS, _FV, _TEETH, _TONGUE = range(len(MOUTH_CHANNELS))


@dataclass(frozen=True, kw_only=True)
class _Voice:
    """What is known about a whole recording before its first window is analysed."""

    level: VoiceLevel
    gain: float  # brings loud frames to LOUD_RMS
    mel_mean: torch.Tensor  # (1, 48, 1)
    tract_factor: float = 1.0  # for `warp_bands`
    opening_gain: float = 1.0


@dataclass(frozen=True, kw_only=True)
class NetOutput:
    mouth: Floats  # (T, 8)
    silence: Floats  # (T,) probabilities
    bilabial: Floats
    labiodental: Floats


class SpeechAnalyser:
    """Holds the loaded net; one instance serves any number of recordings, one at a time."""

    def __init__(self, weights: Path = DEFAULT_WEIGHTS) -> None:
        self._net: SpeechNet = load_speech_net(weights)

    def motion(self, samples: Floats) -> SpeechMotion:
        """Return the motion of a whole recording at 16 kHz, mono, of any length from one sample on.

        Raises ValueError if it is empty, not one-dimensional or not finite.
        """
        pieces = list(self.iter_motion(samples))
        return SpeechMotion(
            mouth=np.concatenate([piece.mouth for piece in pieces]),
            energy=np.concatenate([piece.energy for piece in pieces]),
            activity=np.concatenate([piece.activity for piece in pieces]),
        )

    def iter_motion(self, samples: Floats, window_frames: int = WINDOW_FRAMES) -> Iterator[SpeechMotion]:
        """Yield the same motion in pieces of `window_frames` frames; the last may be shorter."""
        if window_frames < 1:
            raise ValueError(f"window_frames must be at least 1, got {window_frames}")
        samples = np.asarray(samples, np.float32)
        voice = self._know_voice(samples)
        num_frames = len(voice.level.energy)
        for start in range(0, num_frames, window_frames):
            end = min(start + window_frames, num_frames)
            yield SpeechMotion(
                mouth=self._window_mouth(samples, voice, start, end),
                energy=voice.level.energy[start:end],
                activity=voice.level.activity[start:end],
            )

    def _know_voice(self, samples: Floats) -> _Voice:
        level = measure_level(samples)
        if level.loud_rms == 0:
            return _Voice(level=level, gain=0.0, mel_mean=torch.zeros(1, 1, 1))
        gain = LOUD_RMS / level.loud_rms
        excerpts = choose_excerpts(level.activity)
        mels = [self._log_mel(samples, level, gain, start, end) for start, end in excerpts]
        mel = torch.cat(mels, dim=2)
        voice = _Voice(level=level, gain=gain, mel_mean=loud_mean(mel))
        margin = max(0, mel.shape[2] - _TRACT_MEL_FRAMES) // 2
        middle = mel[:, :, margin : margin + _TRACT_MEL_FRAMES]
        voice = replace(voice, tract_factor=self._tract_factor(normalise_mel(middle, voice.mel_mean)))
        outputs = [self._run_net(samples, voice, start, end) for start, end in excerpts]
        openings = np.concatenate([output.mouth[:, _OPEN] for output in outputs])
        spoken = np.concatenate([level.activity[start:end] for start, end in excerpts]) > 0.5
        return replace(voice, opening_gain=_opening_gain(openings[spoken]))

    def _tract_factor(self, mel: torch.Tensor) -> float:
        """Return the warp of the mel bands under which the net recognises the sounds most surely."""
        with torch.inference_mode(), one_thread():
            certainty = [
                float(self._net(warp_bands(mel, factor))[1].softmax(dim=1).amax(dim=1).mean())
                for factor in _TRACT_FACTORS
            ]
        return _TRACT_FACTORS[int(np.argmax(certainty))]

    def _log_mel(self, samples: Floats, level: VoiceLevel, gain: float, start: int, end: int) -> torch.Tensor:
        """Return the log-mel (1, 48, F) of video frames start..end; beyond the recording there is silence."""
        first, last = start * FRAME_SAMPLES - MEL_MARGIN, end * FRAME_SAMPLES + MEL_MARGIN
        inside = samples[max(0, first) : max(0, last)]
        levelled = (inside - np.float32(level.offset)) * np.float32(gain)
        before = max(0, -first)
        padded = np.pad(levelled, (before, last - first - before - len(levelled)))
        return torch.from_numpy(log_mel(padded)).T[None].contiguous()

    def _run_net(self, samples: Floats, voice: _Voice, start: int, end: int) -> NetOutput:
        """Return the net's outputs for video frames start..end, computed with full context."""
        first, last = start - LEFT_CONTEXT_FRAMES, end + RIGHT_CONTEXT_FRAMES
        mel = normalise_mel(self._log_mel(samples, voice.level, voice.gain, first, last), voice.mel_mean)
        with torch.inference_mode(), one_thread():
            mouth, logits = self._net(warp_bands(mel, voice.tract_factor))
            probabilities = logits.softmax(dim=1)
        inner = slice(LEFT_CONTEXT_FRAMES, LEFT_CONTEXT_FRAMES + end - start)
        return NetOutput(
            mouth=mouth[0, :, inner].T.numpy(),
            silence=probabilities[0, SILENCE_CLASS, inner].numpy(),
            bilabial=probabilities[0, BILABIAL_CLASS, inner].numpy(),
            labiodental=probabilities[0, LABIODENTAL_CLASS, inner].numpy(),
        )

    def _window_mouth(self, samples: Floats, voice: _Voice, start: int, end: int) -> Floats:
        if voice.gain == 0:
            return np.zeros((end - start, len(MOUTH_CHANNELS)), np.float32)
        first, last = start - _SMOOTHING_FRAMES, end + _SMOOTHING_FRAMES
        output = self._run_net(samples, voice, first, last)
        num_frames = len(voice.level.activity)
        inside = slice(max(0, first), min(last, num_frames))
        activity = np.pad(voice.level.activity[inside], (max(0, -first), max(0, last - num_frames)))
        mouth = shape_mouth(output, activity, voice.opening_gain)
        return np.ascontiguousarray(mouth[_SMOOTHING_FRAMES:-_SMOOTHING_FRAMES])


def choose_excerpts(activity: Floats) -> list[tuple[int, int]]:
    """Return up to NUM_EXCERPTS frame ranges with speech, evenly spread over the recording."""
    num_frames = len(activity)
    num_blocks = num_frames // EXCERPT_FRAMES
    if num_blocks <= NUM_EXCERPTS:
        return [(0, num_frames)]
    spoken = activity[: num_blocks * EXCERPT_FRAMES].reshape(num_blocks, EXCERPT_FRAMES).mean(axis=1)
    useful = np.flatnonzero(spoken >= 0.5 * spoken.max())
    chosen = useful[np.linspace(0, len(useful) - 1, min(NUM_EXCERPTS, len(useful))).round().astype(int)]
    return [(int(block) * EXCERPT_FRAMES, (int(block) + 1) * EXCERPT_FRAMES) for block in chosen]


def _opening_gain(openings: Floats) -> float:
    """Return the factor that lets a mumbling voice open as far as a clear one."""
    if len(openings) < 10:
        return 1.0
    widest = float(np.percentile(openings, 97))
    return float(np.clip(_FULL_OPENING / max(widest, 1e-3), 1.0, _MAX_OPENING_GAIN))


def shape_mouth(output: NetOutput, activity: Floats, opening_gain: float) -> Floats:
    """Turn raw net outputs into channels (T, 8) that rest in pauses and close fully where lips must meet."""
    mouth = np.clip(output.mouth, 0, None)
    mouth[:, _WIDE] = output.mouth[:, _WIDE]
    mouth[:, _OPEN] *= opening_gain
    mouth[:, _JAW] *= 0.5 + 0.5 * opening_gain
    mouth[:, [_WIDE, _ROUND]] *= _ROUNDING_GAIN
    # The gaps of stop consonants are silent too; only silence that lasts may shut the mouth.
    speaking = activity * (1 - _SILENCE_SHUTS * _minimum_of_three(output.silence))
    lips_meet = np.maximum(
        _certainty(output.bilabial, *_BILABIAL_RANGE), _certainty(output.mouth[:, _PRESS], *_PRESS_RANGE)
    )
    lip_on_teeth = 0.9 * _certainty(output.labiodental, *_LABIODENTAL_RANGE)
    # Doubt that comes and goes within a frame would make the lips tremble; a certain closure stays as it is.
    press = np.maximum(_smooth(np.minimum(mouth[:, _PRESS], 1), (0.25, 0.5, 0.25)), lips_meet)
    mouth *= speaking[:, None]
    mouth[:, _PRESS] = press
    mouth[:, _FV] = np.maximum(mouth[:, _FV], lip_on_teeth * activity)
    for channel in (_JAW, _WIDE, _ROUND, _TEETH, _TONGUE):
        mouth[:, channel] = _smooth(mouth[:, channel], (0.1, 0.2, 0.4, 0.2, 0.1))
    # A closure lasts two or three frames: the opening is smoothed lightly, then closed again.
    mouth[:, _OPEN] = _smooth(mouth[:, _OPEN], (0.0, 0.18, 0.64, 0.18, 0.0)) * (1 - lips_meet)
    lowest = np.zeros(len(MOUTH_CHANNELS), np.float32)
    lowest[_WIDE] = -1.05
    return np.clip(mouth, lowest, 1.05).astype(np.float32)


def _certainty(probability: Floats, low: float, high: float) -> Floats:
    return np.asarray(np.clip((probability - low) / (high - low), 0, 1), np.float32)


def _minimum_of_three(track: Floats) -> Floats:
    padded = np.pad(track, 1, mode="edge")
    return np.asarray(np.minimum(np.minimum(padded[:-2], padded[2:]), track), np.float32)


def _smooth(track: Floats, kernel: tuple[float, ...]) -> Floats:
    return np.convolve(np.pad(track, len(kernel) // 2, mode="edge"), kernel, mode="valid").astype(np.float32)

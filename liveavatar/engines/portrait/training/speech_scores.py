"""How well a mouth track follows timed sounds: correlations, closures and rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.motion import FPS, MOUTH_CHANNELS, Floats
from liveavatar.engines.portrait.phones import BILABIAL_CLASS, ROUNDED_SOUNDS, SILENCE_CLASS, SOUND_CLASSES

CLOSED_BELOW = 0.10  # `open` under which lips count as touching
_OPEN = MOUTH_CHANNELS.index("open")
_ROUND = MOUTH_CHANNELS.index("round")
_WIDE = MOUTH_CHANNELS.index("wide")


@dataclass(frozen=True, kw_only=True)
class SpeechScores:
    """Scores of one or more tracks against their targets."""

    correlation: dict[str, float]  # one per mouth channel
    bilabial_recall: float  # share of p, b, m during which the lips touch
    false_closures_per_s: float  # closures away from p, b, m and silence
    open_in_silence: float  # mean opening where the target is silent and shut
    rounding_gain: float  # mean `round` on rounded sounds, divided by the target's
    narrowing_gain: float  # the same for `wide`, which is negative there
    lag_frames: int  # shift of the track that fits the target's opening best; positive is late


def score_tracks(
    tracks: list[Floats], targets: list[Floats], classes: list[NDArray[np.int64]]
) -> SpeechScores:
    """Score tracks (T, 8) against targets (T, 8) and sound classes (T,), clip by clip."""
    caught = bilabials = false_closures = 0
    for track, sound_classes in zip(tracks, classes, strict=True):
        clip_caught, clip_bilabials = _count_caught(track[:, _OPEN], sound_classes)
        caught, bilabials = caught + clip_caught, bilabials + clip_bilabials
        false_closures += _count_false_closures(track[:, _OPEN], sound_classes)
    got, wanted, sounds = np.concatenate(tracks), np.concatenate(targets), np.concatenate(classes)
    rounded = np.isin(sounds, [SOUND_CLASSES.index(sound) for sound in ROUNDED_SOUNDS])
    silent = (sounds == SILENCE_CLASS) & (wanted[:, _OPEN] < 0.02)
    return SpeechScores(
        correlation={
            name: round(float(np.corrcoef(got[:, i], wanted[:, i])[0, 1]), 3)
            for i, name in enumerate(MOUTH_CHANNELS)
        },
        bilabial_recall=round(caught / max(1, bilabials), 3),
        false_closures_per_s=round(false_closures / (len(got) / FPS), 3),
        open_in_silence=round(float(got[silent, _OPEN].mean()), 4) if silent.any() else 0.0,
        rounding_gain=round(float(got[rounded, _ROUND].mean() / wanted[rounded, _ROUND].mean()), 3),
        narrowing_gain=round(float(got[rounded, _WIDE].mean() / wanted[rounded, _WIDE].mean()), 3),
        lag_frames=best_lag(got[:, _OPEN], wanted[:, _OPEN]),
    )


def best_lag(track: Floats, reference: Floats, reach: int = 4) -> int:
    """Return the shift of `track` against `reference`, in frames, with the highest correlation."""
    inner = slice(reach, -reach)
    scores = {
        lag: float(np.corrcoef(np.roll(track, -lag)[inner], reference[inner])[0, 1])
        for lag in range(-reach, reach + 1)
    }
    return max(scores, key=lambda lag: scores[lag])


def runs_of(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (start, end) of every run of True."""
    steps = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True))


def _count_caught(opening: Floats, sound_classes: NDArray[np.int64]) -> tuple[int, int]:
    runs = runs_of(sound_classes == BILABIAL_CLASS)
    caught = sum(opening[max(0, start - 1) : end + 1].min() < CLOSED_BELOW for start, end in runs)
    return int(caught), len(runs)


def _count_false_closures(opening: Floats, sound_classes: NDArray[np.int64]) -> int:
    allowed = sound_classes == SILENCE_CLASS
    for start, end in runs_of(sound_classes == BILABIAL_CLASS):
        allowed[max(0, start - 2) : end + 2] = True
    return len(runs_of((opening < CLOSED_BELOW) & ~allowed))

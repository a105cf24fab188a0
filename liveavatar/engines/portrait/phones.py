"""Speech sounds and the mouth shapes that belong to them.

Every language is reduced to 28 classes of sounds that look alike on a face. Each class has a target for the
eight channels of `MOUTH_CHANNELS` and, for each channel, a dominance: how strongly the sound insists on its
target while its neighbours pull towards theirs (the dominance functions of Cohen and Massaro, 1993).
`mouth_targets` turns timed sounds into smooth trajectories; they are what the speech net learns to predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.motion import FPS, MOUTH_CHANNELS, Floats

TARGET_RATE = 100  # trajectories are drawn at 100 per second, then reduced to FPS
CLOSURE_MIN_S = 0.070  # lips stay together at least this long for p, b and m
CLOSURE_EDGE_S = 0.040  # and take this long to part

_JAW, _OPEN, _WIDE, _ROUND, _PRESS, _FV, _TEETH, _TONGUE = range(len(MOUTH_CHANNELS))


@dataclass(frozen=True, kw_only=True)
class SoundShape:
    """Where one class of sounds wants the mouth, how strongly, and for how long around itself."""

    target: tuple[float, ...]  # one value per channel
    dominance: tuple[float, ...]  # one weight per channel; a neutral vowel has 1
    before_s: float  # how early the mouth starts to move towards the target
    after_s: float  # how long it lingers


@dataclass(frozen=True, kw_only=True)
class TimedSound:
    """One sound of a recording, in seconds from its start."""

    start_s: float
    end_s: float
    sound: str  # a member of SOUND_CLASSES


def _vowel(
    jaw: float, open_: float, wide: float, round_: float = 0.0, weight: float = 1.0, lips: float = 1.0
) -> SoundShape:
    """Describe a vowel; `lips` is the extra dominance of its rounding or spreading."""
    return SoundShape(
        target=(jaw, open_, wide, round_, 0, 0, 0, 0),
        dominance=(weight, weight, weight * lips, weight * lips, weight, weight, weight, weight),
        before_s=0.075 if lips == 1.0 else 0.095,
        after_s=0.065,
    )


def _consonant(
    target: tuple[float, ...], dominance: tuple[float, ...], before_s: float = 0.055, after_s: float = 0.045
) -> SoundShape:
    return SoundShape(target=target, dominance=dominance, before_s=before_s, after_s=after_s)


ROUNDED = 1.8  # protruded lips are prepared early and held through the neighbouring consonants

# Columns: jaw, open, wide, round, press, fv, teeth, tongue.
SOUND_SHAPES: dict[str, SoundShape] = {
    "sil": _consonant((0, 0, 0, 0, 0.12, 0, 0, 0), (0.9, 1.2, 0.6, 0.6, 0.6, 1, 1, 1), 0.060, 0.070),
    "a": _vowel(0.95, 0.95, 0.15),
    "aa": _vowel(1.00, 1.00, 0.00, 0.05),
    "eh": _vowel(0.62, 0.62, 0.42),
    "ey": _vowel(0.45, 0.48, 0.55),
    "ih": _vowel(0.30, 0.36, 0.50, weight=0.9),
    "iy": _vowel(0.18, 0.28, 0.85),
    "schwa": _vowel(0.38, 0.38, 0.10, weight=0.6),
    "er": _vowel(0.36, 0.36, -0.25, 0.35),
    "ao": _vowel(0.72, 0.66, -0.45, 0.60, lips=ROUNDED),
    "oh": _vowel(0.50, 0.42, -0.75, 0.90, lips=ROUNDED),
    "uh": _vowel(0.30, 0.26, -0.70, 0.85, lips=ROUNDED),
    "uw": _vowel(0.20, 0.17, -0.95, 1.00, lips=ROUNDED),
    "y": _vowel(0.20, 0.20, -0.80, 0.95, lips=ROUNDED),
    "oe": _vowel(0.45, 0.40, -0.60, 0.75, lips=ROUNDED),
    "ah": _vowel(0.68, 0.66, 0.08),
    "p": _consonant((0.10, 0, 0, 0, 1, 0, 0, 0), (0.6, 9, 0.25, 0.25, 9, 3, 2, 1)),
    "f": _consonant((0.16, 0.10, 0.15, 0, 0, 1, 0.3, 0), (0.6, 4, 0.4, 0.4, 4, 9, 1, 1)),
    "w": _consonant((0.22, 0.15, -0.95, 1, 0, 0, 0, 0), (0.6, 1.5, 2.4, 2.4, 2, 2, 1, 1), 0.095, 0.060),
    "s": _consonant((0.10, 0.26, 0.35, 0, 0, 0, 1, 0), (1.2, 1.1, 0.35, 0.35, 3, 3, 3, 1)),
    "sh": _consonant((0.14, 0.34, -0.45, 0.65, 0, 0, 1, 0), (1.2, 1.1, 1, 1, 3, 3, 3, 1)),
    "t": _consonant((0.20, 0.28, 0.12, 0, 0, 0, 0.35, 0.75), (0.8, 0.7, 0.15, 0.15, 2, 2, 1, 3)),
    "l": _consonant((0.32, 0.38, 0.10, 0, 0, 0, 0, 1), (0.7, 0.7, 0.2, 0.2, 2, 2, 1, 3)),
    "th": _consonant((0.24, 0.30, 0.15, 0, 0, 0, 0.3, 1), (0.9, 0.9, 0.3, 0.2, 2, 2, 1, 3)),
    "r": _consonant((0.26, 0.28, -0.45, 0.55, 0, 0, 0.1, 0.1), (0.8, 0.8, 0.7, 0.7, 2, 2, 1, 1)),
    "k": _consonant((0.34, 0.36, 0.05, 0, 0, 0, 0, 0), (0.5, 0.5, 0.1, 0.1, 2, 2, 1, 1)),
    "h": _consonant((0.40, 0.42, 0, 0, 0, 0, 0, 0), (0.2, 0.25, 0.05, 0.05, 1, 1, 0.5, 0.5)),
    "j": _consonant((0.18, 0.26, 0.65, 0, 0, 0, 0, 0), (0.8, 0.8, 0.9, 0.5, 2, 2, 1, 1)),
}
SOUND_CLASSES = tuple(SOUND_SHAPES)  # the order of the net's class outputs
SILENCE_CLASS = SOUND_CLASSES.index("sil")
BILABIAL_CLASS = SOUND_CLASSES.index("p")
LABIODENTAL_CLASS = SOUND_CLASSES.index("f")
ROUNDED_SOUNDS = frozenset({"oh", "uh", "uw", "y", "oe", "w"})

_IPA_GROUPS = {
    "a": "aæɐä", "aa": "ɑɒ", "eh": "ɛε", "ey": "eẽ", "ih": "ɪɨᵻ", "iy": "i", "schwa": "əɘ", "er": "ɜɚɝ",
    "ao": "ɔ", "oh": "oɤɵ", "uh": "ʊɯ", "uw": "uʉ", "y": "yʏ", "oe": "øœɶ", "ah": "ʌ",
    "p": "pbmɓ", "f": "fvɱ", "w": "wʍɥβɸʋ", "s": "szɕʑ", "sh": "ʃʒʂʐ", "t": "tdnɾɖʈɳɗ", "l": "lɫɭʎɬ",
    "th": "θð", "r": "ɹrʁɻʀɽ", "k": "kɡgŋxɣqɟcχɲçħʕʔ", "h": "hɦ", "j": "jʝʲ",
}  # fmt: skip
_SOUND_OF_IPA = {letter: sound for sound, letters in _IPA_GROUPS.items() for letter in letters}

_ARPABET = {
    "aa": "aa", "ae": "a", "ah": "ah", "ao": "ao", "aw": "a uh", "ax": "schwa", "axr": "er", "ay": "a ih",
    "eh": "eh", "er": "er", "ey": "ey ih", "ih": "ih", "iy": "iy", "ow": "oh uh", "oy": "ao ih",
    "uh": "uh", "uw": "uw", "b": "p", "p": "p", "m": "p", "em": "p", "f": "f", "v": "f", "w": "w",
    "s": "s", "z": "s", "sh": "sh", "zh": "sh", "ch": "sh", "jh": "sh", "t": "t", "d": "t", "n": "t",
    "dx": "t", "en": "t", "nx": "t", "l": "l", "el": "l", "th": "th", "dh": "th", "r": "r", "k": "k",
    "g": "k", "ng": "k", "hh": "h", "hv": "h", "y": "j", "pau": "sil", "sil": "sil",
}  # fmt: skip


def sounds_of_ipa(symbols: str) -> list[str]:
    """Return the sound classes of an IPA string; affricates look like their fricative, silence is "sil"."""
    for affricate, fricative in (("d͡ʒ", "ʒ"), ("dʒ", "ʒ"), ("tʃ", "ʃ"), ("ts", "s")):
        symbols = symbols.replace(affricate, fricative)
    return [_SOUND_OF_IPA[symbol] for symbol in symbols if symbol in _SOUND_OF_IPA] or ["sil"]


def sounds_of_arpabet(phone: str) -> list[str]:
    """Return the sound classes of one ARPABET phone; a diphthong has two."""
    if phone not in _ARPABET:
        raise ValueError(f"unknown ARPABET phone {phone!r}")
    return _ARPABET[phone].split()


def split_evenly(start_s: float, end_s: float, sounds: Sequence[str]) -> list[TimedSound]:
    """Share the time from `start_s` to `end_s` equally among `sounds`."""
    edges = np.linspace(start_s, end_s, len(sounds) + 1)
    return [
        TimedSound(start_s=float(edges[i]), end_s=float(edges[i + 1]), sound=sound)
        for i, sound in enumerate(sounds)
    ]


def mouth_targets(sounds: Sequence[TimedSound], num_frames: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return the mouth (num_frames, 8) and the sound class (num_frames,) of every video frame."""
    per_frame = TARGET_RATE // FPS
    fine, fine_classes = _fine_targets(sounds, num_frames * per_frame)
    groups = fine.reshape(num_frames, per_frame, len(MOUTH_CHANNELS))
    mouth = groups.mean(axis=1)
    # A closure shorter than a frame must not be averaged away.
    mouth[:, _OPEN] = 0.5 * mouth[:, _OPEN] + 0.5 * groups[:, :, _OPEN].min(axis=1)
    mouth[:, _PRESS] = 0.5 * mouth[:, _PRESS] + 0.5 * groups[:, :, _PRESS].max(axis=1)
    return mouth, fine_classes.reshape(num_frames, per_frame)[:, 1]


def _fine_targets(sounds: Sequence[TimedSound], num_steps: int) -> tuple[Floats, NDArray[np.int64]]:
    times: Floats = (np.arange(num_steps, dtype=np.float32) + np.float32(0.5)) / np.float32(TARGET_RATE)
    pulled = np.zeros((num_steps, len(MOUTH_CHANNELS)), np.float32)
    total = np.full((num_steps, len(MOUTH_CHANNELS)), 1e-6, np.float32)
    classes = np.full(num_steps, SILENCE_CLASS, np.int64)
    closed = np.zeros(num_steps, np.float32)
    for timed in sounds:
        first = max(0, int((timed.start_s - 0.4) * TARGET_RATE))
        last = min(num_steps, int((timed.end_s + 0.4) * TARGET_RATE) + 1)
        if last <= first:
            continue
        near = times[first:last]
        dominance = _dominance(timed, near)
        pulled[first:last] += dominance * np.array(SOUND_SHAPES[timed.sound].target, np.float32)
        total[first:last] += dominance
        begin, end = round(timed.start_s * TARGET_RATE), round(timed.end_s * TARGET_RATE)
        classes[max(0, begin) : max(0, end)] = SOUND_CLASSES.index(timed.sound)
        if timed.sound == "p":
            closed[first:last] = np.maximum(closed[first:last], _closure(timed, near))
    mouth = pulled / total
    mouth[:, _OPEN] *= 1 - closed
    mouth[:, _PRESS] = np.maximum(mouth[:, _PRESS] * 0.6, closed)
    mouth[:, _JAW] *= 1 - 0.55 * closed
    return mouth, classes


def _dominance(timed: TimedSound, times: Floats) -> Floats:
    """Return the weight (len(times), 8) of one sound: full inside it, falling off on both sides."""
    shape = SOUND_SHAPES[timed.sound]
    weights = np.array(shape.dominance, np.float32)
    if timed.sound == "sil":  # a short gap inside speech must not close the mouth, a long pause must
        weights = weights * np.float32(np.clip((timed.end_s - timed.start_s) / 0.12, 0.15, 2.5))
    distance = np.maximum((timed.start_s - times) / shape.before_s, (times - timed.end_s) / shape.after_s)
    falloff = np.exp(-(np.maximum(distance, 0.0) ** 1.2)).astype(np.float32)
    return np.asarray(falloff[:, None] * weights[None, :], np.float32)


def _closure(timed: TimedSound, times: Floats) -> Floats:
    """Return 1 while the lips touch for p, b or m, falling to 0 within CLOSURE_EDGE_S."""
    centre = (timed.start_s + timed.end_s) / 2
    half = max(timed.end_s - timed.start_s, CLOSURE_MIN_S) / 2
    return np.asarray(np.clip(1 - (np.abs(times - centre) - half) / CLOSURE_EDGE_S, 0, 1), np.float32)

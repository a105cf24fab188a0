"""Sounds, their mouth shapes, and the log-mel that the net hears."""

from __future__ import annotations

import numpy as np
import pytest

from liveavatar.engines.portrait.mel import MEL_HOP, MEL_MARGIN, NUM_MELS, SAMPLE_RATE, log_mel
from liveavatar.engines.portrait.motion import MOUTH_CHANNELS
from liveavatar.engines.portrait.phones import (
    SOUND_CLASSES,
    TimedSound,
    mouth_targets,
    sounds_of_arpabet,
    sounds_of_ipa,
    split_evenly,
)
from liveavatar.engines.portrait.voice_level import measure_level, num_video_frames

OPEN, WIDE, ROUND, PRESS = (MOUTH_CHANNELS.index(name) for name in ("open", "wide", "round", "press"))


def spell(*sounds: str, seconds: float = 0.2) -> list[TimedSound]:
    return split_evenly(0.0, seconds * len(sounds), sounds)


def test_ipa_and_arpabet_agree() -> None:
    assert sounds_of_ipa("p") == sounds_of_arpabet("b") == ["p"]
    assert sounds_of_ipa("tʃ") == sounds_of_arpabet("ch") == ["sh"]
    assert sounds_of_ipa("oʊ") == sounds_of_arpabet("ow") == ["oh", "uh"]
    assert sounds_of_ipa("") == sounds_of_arpabet("pau") == ["sil"]
    with pytest.raises(ValueError, match="qq"):
        sounds_of_arpabet("qq")


def test_a_closure_reaches_zero_between_open_vowels() -> None:
    mouth, classes = mouth_targets(spell("a", "p", "a"), 15)
    assert mouth[7, OPEN] < 0.02
    assert mouth[7, PRESS] > 0.95
    assert mouth[2, OPEN] > 0.35
    assert SOUND_CLASSES[classes[7]] == "p"


def test_rounded_vowels_narrow_and_protrude() -> None:
    mouth, _ = mouth_targets(spell("t", "uw", "t"), 15)
    assert mouth[7, ROUND] > 0.9
    assert mouth[7, WIDE] < -0.85
    spread, _ = mouth_targets(spell("t", "iy", "t"), 15)
    assert spread[7, WIDE] > 0.7
    assert spread[7, ROUND] < 0.1


def test_silence_is_shut() -> None:
    mouth, _ = mouth_targets(spell("sil", seconds=1.0), 25)
    assert mouth[:, OPEN].max() < 0.01


def test_mel_frame_is_centred_on_its_hop() -> None:
    samples = np.zeros(20 * MEL_HOP + 2 * MEL_MARGIN, np.float32)
    samples[MEL_MARGIN + 7 * MEL_HOP + MEL_HOP // 2] = 1  # a click in the middle of hop 7
    level = log_mel(samples).mean(axis=1)
    assert int(level.argmax()) == 7
    assert level[6] == pytest.approx(level[8], abs=0.2)


def test_mel_finds_the_pitch_of_a_tone() -> None:
    time_s = np.arange(50 * MEL_HOP + 2 * MEL_MARGIN) / SAMPLE_RATE
    peaks = [
        int(log_mel(np.sin(2 * np.pi * hz * time_s).astype(np.float32))[25].argmax())
        for hz in (300, 1000, 4000)
    ]
    assert peaks == sorted(set(peaks))
    assert 0 < peaks[0] < peaks[2] < NUM_MELS


def test_mel_refuses_a_shifted_window() -> None:
    with pytest.raises(ValueError, match="whole hops"):
        log_mel(np.zeros(1000, np.float32))


def test_level_of_half_a_frame_and_an_offset() -> None:
    level = measure_level(np.full(960, 0.5, np.float32) + np.tile([0.1, -0.1], 480).astype(np.float32))
    assert num_video_frames(960) == len(level.energy) == 2
    assert level.offset == pytest.approx(0.5, abs=1e-4)
    # Beyond the end there is silence, so half a frame has half the power.
    np.testing.assert_allclose(level.energy, [0.1, 0.1 / np.sqrt(2)], atol=1e-3)

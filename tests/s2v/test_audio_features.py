"""Resampling as a stream, features of endless speech, files of any kind."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from liveavatar.conditioning.audio import (
    AudioEncoder,
    build_audio_encoder,
    pick_frames,
    picture_frame_indices,
    to_feature_rate,
)
from liveavatar.conditioning.audio_file import load_16k
from liveavatar.conditioning.audio_stream import AudioFeatureStream, Window
from liveavatar.conditioning.resample import Floats, Resampler, resample_to_16k
from tests.parity.golden import load_case
from tests.s2v.test_parity import GOLDEN, one_thread  # noqa: F401  # a fixture


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    case = load_case(GOLDEN / "audio_features_public.json")
    return build_audio_encoder(case.weights, case.config["wav2vec2"], device="cpu", dtype=torch.float32)


def speech(seconds: float) -> Floats:
    """Return noise with the rhythm of syllables."""
    time = np.arange(int(seconds * 16_000)) / 16_000
    noise = np.random.default_rng(0).normal(size=len(time))
    return (0.05 * noise * (1 + np.sin(2 * np.pi * 4 * time))).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 47_999, 96_000, 192_000])
def test_a_tone_keeps_its_pitch_and_level_at_every_rate(rate: int) -> None:
    def tone(at_rate: int) -> Floats:
        time = np.arange(at_rate // 2) / at_rate
        return (np.sin(2 * np.pi * 1000 * time) * np.sin(np.pi * time / 0.5) ** 2).astype(np.float32)

    resampled = resample_to_16k(tone(rate), rate)
    assert len(resampled) == -(-(rate // 2) * 16_000 // rate)
    assert (
        np.abs(resampled[:7990] - tone(16_000)[:7990]).max()
        < 1e-3 * (rate / 48_000 if rate % 2 else 1) + 1e-5
    )


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_nothing_above_8_khz_folds_back(rate: int) -> None:
    tone = np.sin(2 * np.pi * 9_500 * np.arange(rate) / rate) * np.hanning(rate)
    assert np.abs(resample_to_16k(tone, rate)).max() < 1e-5


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_pieces_of_any_length_give_the_whole(rate: int) -> None:
    samples = np.random.default_rng(1).normal(size=3001).astype(np.float32)
    resampler = Resampler(rate)
    cuts = [0, 1, 2, 500, 501, 2700, 3001]
    pieces = [resampler.push(samples[start:stop]) for start, stop in itertools.pairwise(cuts)]
    joined = np.concatenate([*pieces, resampler.flush()])
    np.testing.assert_allclose(joined, resample_to_16k(samples, rate), atol=1e-6)


def test_impossible_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="0 Hz"):
        Resampler(0)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_stereo_files_are_mixed_and_resampled(tmp_path: Path, kind: str) -> None:
    samples = np.random.default_rng(2).uniform(-0.5, 0.5, (24_000, 2)).astype(np.float32)
    path = tmp_path / f"voice.{kind}"
    soundfile.write(path, samples, 48_000, subtype="PCM_16")
    loaded = load_16k(path)
    assert len(loaded) == 8000
    np.testing.assert_allclose(loaded, resample_to_16k(samples, 48_000), atol=1e-4)


def test_a_window_over_everything_equals_the_whole_file(encoder: AudioEncoder) -> None:
    samples = speech(1.5)
    stream = AudioFeatureStream(encoder, window=Window(before_s=60, after_s=60), num_samples=len(samples))
    assert list(stream.push(samples)) == []
    features = torch.cat(list(stream.flush()), dim=-1)
    level = stream._level
    states = encoder.hidden_states(torch.from_numpy(samples), mean=level.mean, std=level.std)
    at_feature_rate = to_feature_rate(states)
    indices = picture_frame_indices(at_feature_rate.shape[1], frames_per_clip=12)[: features.shape[-1]]
    whole = pick_frames(at_feature_rate, indices)
    assert torch.allclose(features[..., : whole.shape[-1]], whole, atol=1e-3)
    assert whole.shape[-1] >= 37


def test_blocks_come_as_speech_comes_and_memory_does_not_grow(encoder: AudioEncoder) -> None:
    window = Window(before_s=0.5, after_s=0.2)
    stream = AudioFeatureStream(encoder, window=window)
    samples = speech(3.0)
    num_blocks, most_kept = 0, 0
    for start in range(0, len(samples), 1600):
        for block in stream.push(samples[start : start + 1600]):
            assert block.shape == (1, 25, 32, 12)
            num_blocks += 1
        most_kept = max(most_kept, len(stream._samples))
    heard_s = num_blocks * 0.48
    assert 3.0 - heard_s < 0.48 + 0.48 + window.after_s
    assert most_kept < 2.0 * 16_000
    num_blocks += len(list(stream.flush()))
    assert num_blocks == 7  # 3 s are 75 picture frames


def test_a_block_does_not_depend_on_how_speech_is_cut(encoder: AudioEncoder) -> None:
    samples = speech(1.2)
    window = Window(before_s=0.3, after_s=0.1)
    one, many = AudioFeatureStream(encoder, window=window), AudioFeatureStream(encoder, window=window)
    first = next(iter(one.push(samples[:11_000])))
    pieces = [block for start in range(0, 11_000, 1000) for block in many.push(samples[start : start + 1000])]
    # The level of what was heard differs a little, the rest does not.
    assert (first - pieces[0]).norm() < 0.2 * first.norm()


def test_the_last_state_is_behind_the_final_norm(encoder: AudioEncoder) -> None:
    last = encoder.hidden_states(torch.from_numpy(speech(0.5)))[-1]
    assert abs(last.std(dim=-1).mean().item() - 1) < 0.2

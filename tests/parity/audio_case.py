"""Resampled sound and audio features against recorded ones."""

from __future__ import annotations

import torch

from liveavatar.conditioning.audio import build_audio_encoder, picture_frame_indices, to_feature_rate
from liveavatar.conditioning.resample import resample_to_16k
from tests.parity.golden import GoldenCase, relative_error

KINDS: tuple[str, ...] = ("audio_features", "audio_bucket_indices", "resample_16k")

_RECORDED_LAYERS = [0, 1, 12, 24]


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the error of every recorded output."""
    if case.kind == "resample_16k":
        return _resampling(case)
    return _bucket_indices(case) if case.kind == "audio_bucket_indices" else _features(case)


def _resampling(case: GoldenCase) -> dict[str, float]:
    errors = {}
    for index, sound in enumerate(case.manifest["cases"]):
        samples = resample_to_16k(case.io[f"case{index}.input"].numpy(), sound["sr"])
        expected = case.io[f"case{index}.out16k"]
        errors[f"case{index} {sound['sr']} Hz"] = relative_error(torch.from_numpy(samples), expected)
    return errors


def _bucket_indices(case: GoldenCase) -> dict[str, float]:
    errors = {}
    for index, bucket in enumerate(case.manifest["cases"]):
        indices = picture_frame_indices(bucket["T30"], frames_per_clip=bucket["infer_frames"])
        same = torch.equal(indices + 1, case.io[f"case{index}.index_plus1_or_zero"])
        errors[f"case{index}"] = 0.0 if same else 1.0
    return errors


def _features(case: GoldenCase) -> dict[str, float]:
    # The records were made where the last hidden state is listed before the final norm: see AudioEncoder.
    encoder = build_audio_encoder(
        case.weights, case.config["wav2vec2"], device="cpu", dtype=torch.float32, norm_last_state=False
    )
    errors = {}
    for index, sound in enumerate(case.manifest["cases"]):
        samples = case.io[f"case{index}.waveform"]
        states = encoder.hidden_states(samples)
        recorded_states = case.io[f"case{index}.hidden_states_0_1_12_24"]
        errors[f"case{index}.hidden_states"] = relative_error(states[_RECORDED_LAYERS], recorded_states)
        errors[f"case{index}.z30"] = relative_error(to_feature_rate(states), case.io[f"case{index}.z30"])
        features = encoder.encode(samples, frames_per_clip=sound["infer_frames"])
        errors[f"case{index}.audio_emb"] = relative_error(features, case.io[f"case{index}.audio_emb"])
    return errors

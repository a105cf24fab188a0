"""How far features of a sliding window are from those of the whole file: python benchmarks/audio_window.py VOICE

With `--checkpoint DIR` the published wav2vec2 is measured; without it, a network of the same shape with random
weights, in which attention reaches everywhere and every difference shows: an upper bound.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from liveavatar.conditioning.audio import (
    ENCODER_RATE,
    FEATURE_RATE,
    AudioEncoder,
    load_audio_encoder,
    nearest_feature,
)
from liveavatar.conditioning.audio_file import load_16k
from liveavatar.conditioning.audio_stream import AudioFeatureStream, Window, interpolate
from liveavatar.loading.checkpoint import CheckpointLayout

WINDOWS = [
    Window(before_s=before, after_s=after) for before, after in [(2, 0.48), (4, 0.48), (4, 1.28), (8, 1.28)]
]
STATES = (0, 1, 12, 23, 24)


def main() -> None:
    """Print two lines per window."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("voice", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--layers", type=int, default=24, help="of the random network")
    options = parser.parse_args()
    encoder = _encoder(options.checkpoint, options.layers)
    samples = torch.from_numpy(load_16k(options.voice)[: int(options.seconds * 16_000)])
    started = time.monotonic()
    whole = encoder.encode(samples, frames_per_clip=48)
    print(f"whole file: {len(samples) / 16_000:.1f} s of speech in {time.monotonic() - started:.1f} s")
    # The whole-file path stretches time by up to one encoder frame at the end; this reference does not.
    instants = (
        torch.tensor([nearest_feature(frame) for frame in range(whole.shape[-1])])
        * ENCODER_RATE
        / FEATURE_RATE
    )
    same_instants = interpolate(encoder.hidden_states(samples), instants).mT[None]
    states = [state for state in STATES if state < encoder.num_states]
    for window in WINDOWS:
        started = time.monotonic()
        stream = AudioFeatureStream(encoder, window=window)
        features = torch.cat([*stream.push(samples.numpy()), *stream.flush()], dim=-1)
        seconds = time.monotonic() - started
        print(f"{window.before_s:g} s before, {window.after_s:g} s after ({seconds:.1f} s):")
        for name, reference in (("whole file", whole), ("whole file, same instants", same_instants)):
            distance = _distance(features, reference)
            listed = ", ".join(f"state {state} {distance[state]:.3f}" for state in states)
            print(f"  from {name}: {listed}; mean {distance.mean():.3f}")


def _encoder(checkpoint: Path | None, num_layers: int) -> AudioEncoder:
    if checkpoint is not None:
        return load_audio_encoder(CheckpointLayout.find(checkpoint), device="cpu", dtype=torch.float32)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=1024,
        num_hidden_layers=num_layers,
        num_attention_heads=16,
        intermediate_size=4096,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        apply_spec_augment=False,
    )
    return AudioEncoder(Wav2Vec2Model(config).eval())


def _distance(features: Tensor, whole: Tensor) -> Tensor:
    """Return the root mean square difference per state over the root mean square of the whole file's."""
    num_frames = min(features.shape[-1], whole.shape[-1]) - 24  # not the silence at the end
    features, whole = features[0, ..., :num_frames], whole[0, ..., :num_frames]
    return (features - whole).square().mean((1, 2)).sqrt() / whole.square().mean((1, 2)).sqrt()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()

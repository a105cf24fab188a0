"""Speech -> features for the model: all hidden states of wav2vec2, brought to 25 per second.

Rates: wav2vec2 makes 50 feature frames per second. The published model was trained on features interpolated to
30 per second, of which the nearest one is taken for each of the 25 picture frames per second; both are kept.

Shapes: samples [num_samples] at 16 kHz; hidden states [layers + 1, T50, C]; features [1, layers + 1, C, frames].
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils import parametrize
from transformers import Wav2Vec2Config, Wav2Vec2Model

from liveavatar.loading.checkpoint import CheckpointLayout

logger = logging.getLogger(__name__)

PICTURE_RATE = 25
FEATURE_RATE = 30  # of the interpolated features
ENCODER_RATE = 50
_FEATURES_PER_FRAME = Fraction(FEATURE_RATE, PICTURE_RATE)
_VARIANCE_FLOOR = 1e-7


class AudioEncoder:
    """wav2vec2 with everything that is done before and after it.

    `norm_last_state`: whether the last hidden state is the one behind the encoder's final norm. It is in
    transformers 4, with which the published model was trained; transformers 5 lists the one before it.
    """

    def __init__(self, network: Wav2Vec2Model, *, norm_last_state: bool = True) -> None:
        self._network: Any = network
        self._norm_last_state = norm_last_state

    @property
    def weights(self) -> list[Tensor]:
        """Return the network's parameters and buffers."""
        return [*self._network.parameters(), *self._network.buffers()]

    @property
    def num_channels(self) -> int:
        """Width of one feature vector."""
        return int(self._network.config.hidden_size)

    @property
    def num_states(self) -> int:
        """Hidden states per feature frame: one before the first layer and one after each."""
        return int(self._network.config.num_hidden_layers) + 1

    @torch.inference_mode()
    def hidden_states(
        self, samples: Tensor, *, mean: float | None = None, std: float | None = None
    ) -> Tensor:
        """Return [layers + 1, T50, C] of speech, brought to zero mean and unit variance first.

        `mean` and `std` stand for a longer recording that `samples` are a part of; default: their own.
        """
        samples = samples.float()
        mean = samples.mean().item() if mean is None else mean
        std = math.sqrt(samples.var(correction=0).item() + _VARIANCE_FLOOR) if std is None else std
        normalised = _without_waiting((samples - mean) / std, self._network.device).to(self._network.dtype)
        output = self._network(normalised[None], output_hidden_states=True)
        states: tuple[Tensor, ...] = output.hidden_states
        return torch.cat([*states[:-1], output.last_hidden_state] if self._norm_last_state else states)

    def encode(self, samples: Tensor, *, frames_per_clip: int) -> Tensor:
        """Return the features [1, layers + 1, C, frames] of a whole recording, frames in whole clips.

        Attention sees the whole recording: time and memory grow with its square. Silence that fills the last
        clip is all zeros.
        """
        features = to_feature_rate(self.hidden_states(samples))
        indices = picture_frame_indices(features.shape[1], frames_per_clip=frames_per_clip)
        return pick_frames(features, indices)


def _without_waiting(samples: Tensor, device: torch.device) -> Tensor:
    """Return samples on the device. Only from pinned memory they get there without waiting for the card's work."""
    return samples.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else samples.to(device)


def to_feature_rate(hidden_states: Tensor) -> Tensor:
    """Interpolate [L, T50, C] to [L, T30, C] with the first and last frames of both on each other."""
    num_features = hidden_states.shape[1] * FEATURE_RATE // ENCODER_RATE
    resized = F.interpolate(hidden_states.mT, size=num_features, mode="linear", align_corners=True)
    return resized.mT.float()


def picture_frame_indices(num_features: int, *, frames_per_clip: int) -> Tensor:
    """Return, for each picture frame of whole clips, the nearest of `num_features` features; -1 is silence.

    There is always at least one frame of silence's worth of room: speech that fills its clips exactly gets one
    more clip, as in the published pipeline.
    """
    num_clips = int(num_features / (frames_per_clip * _FEATURES_PER_FRAME)) + 1
    num_frames = num_clips * frames_per_clip
    last = math.ceil(num_frames * _FEATURES_PER_FRAME) - 1
    indices = torch.tensor([min(nearest_feature(frame), last) for frame in range(num_frames)])
    return torch.where(indices < num_features, indices, -1)


def nearest_feature(frame: int) -> int:
    """Return the feature at the instant of a picture frame; halves go to the even one."""
    return round(frame * _FEATURES_PER_FRAME)


def pick_frames(features: Tensor, indices: Tensor) -> Tensor:
    """Gather [L, T, C] features into [1, L, C, frames]; index -1 gives zeros."""
    picked = features[:, indices.clamp(min=0)]
    picked = torch.where((indices >= 0)[None, :, None].to(picked.device), picked, 0.0)
    return picked.mT[None]


def load_audio_encoder(
    layout: CheckpointLayout, *, device: torch.device | str, dtype: torch.dtype
) -> AudioEncoder:
    """Load wav2vec2 from the checkpoint's folder, from either of its file formats."""
    path = layout.audio_encoder_weights
    logger.info("Loading the audio encoder from %s", path)
    state_dict = _load_tensors(path)
    config = json.loads((layout.audio_encoder / "config.json").read_text(encoding="utf-8"))
    return build_audio_encoder(state_dict, config, device=device, dtype=dtype)


def build_audio_encoder(
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    norm_last_state: bool = True,
) -> AudioEncoder:
    """Build wav2vec2 around tensors with the keys of `Wav2Vec2ForCTC`, old or new spelling."""
    inference = {
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
        "apply_spec_augment": False,
        "layerdrop": 0.0,
    }
    network_config = Wav2Vec2Config(**{**config, **inference})
    with torch.device("meta"):
        network = Wav2Vec2Model(network_config)
    network.load_state_dict(_encoder_tensors(state_dict), strict=True, assign=True)
    # Multiply the weight norm out once instead of at every call.
    parametrize.remove_parametrizations(network.encoder.pos_conv_embed.conv, "weight")
    module: torch.nn.Module = network
    module.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return AudioEncoder(network, norm_last_state=norm_last_state)


def _encoder_tensors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors to those of `Wav2Vec2Model`; the output layer over letters is left out."""
    renamed = {}
    for key, tensor in state_dict.items():
        if not key.startswith("lm_head.") and not key.endswith("masked_spec_embed"):  # for training only
            key = key.removeprefix("wav2vec2.")
            key = key.replace("conv.weight_g", "conv.parametrizations.weight.original0")
            renamed[key.replace("conv.weight_v", "conv.parametrizations.weight.original1")] = tensor
    return renamed


def _load_tensors(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    state_dict: Mapping[str, Tensor] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return state_dict

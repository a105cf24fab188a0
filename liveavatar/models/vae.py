"""The Wan2.1 video autoencoder as a stream: diffusers' network, with the causal cache in the caller's hands.

The first picture frame is a latent frame of its own; after it, every 4 picture frames make one. Each causal
convolution needs the last 2 frames of its previous input, and those frames are the cache: a tuple of tensors that
goes in with a piece of the stream and comes out for the next. The module holds no state, so any number of
streams may share it, and the steady call has constant shapes: it compiles once and can be captured.

Shapes: frames [B, 3, F, H, W] in -1..1, latents [B, 16, T, H/8, W/8] normalised per channel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample
from torch import Tensor, nn

VaeCache = tuple[Tensor, ...]

FRAMES_PER_LATENT = 4
_HISTORY = 2  # frames of its input that a causal convolution looks back


class StreamingVae(nn.Module):
    """Encode and decode video piece by piece; pieces in a row equal the whole."""

    mean_C: Tensor
    inverse_std_C: Tensor
    is_tiled = False  # works on parts of the picture in turn

    def __init__(self, network: AutoencoderKLWan) -> None:
        super().__init__()
        self.network: Any = network  # diffusers hides its attributes from type checkers
        self.network.eval().requires_grad_(False)
        _use_channels_last(self.network)
        _use_own_upsampling(self.network)
        _use_own_convolutions(self.network)
        self._encoder_slots = cache_slots(self.network.encoder)
        self._decoder_slots = cache_slots(self.network.decoder)
        mean, std = (torch.tensor(self.network.config[key]) for key in ("latents_mean", "latents_std"))
        self.register_buffer("mean_C", mean, persistent=False)
        self.register_buffer("inverse_std_C", 1 / std, persistent=False)
        self._run_encoder = self._encode_steady
        self._run_decoder = self._decode_steady

    def compile_streams(self, **options: object) -> None:
        """Compile the steady call of both directions with `torch.compile(**options)`."""
        self._run_encoder = torch.compile(self._encode_steady, fullgraph=True, **options)  # type: ignore[call-overload]
        self._run_decoder = torch.compile(self._decode_steady, fullgraph=True, **options)  # type: ignore[call-overload]

    @torch.inference_mode()
    def encode(self, frames: Tensor, *, frames_per_call: int = FRAMES_PER_LATENT) -> Tensor:
        """Return the latents of a whole video of 1 + 4n frames."""
        latents, cache = self.encode_next(frames[:, :, :1], None)
        pieces = [latents]
        for start in range(1, frames.shape[2], frames_per_call):
            latents, cache = self.encode_next(frames[:, :, start : start + frames_per_call], cache)
            pieces.append(latents)
        return torch.cat(pieces, dim=2)

    @torch.inference_mode()
    def decode(self, latents: Tensor, *, latents_per_call: int = 1) -> Tensor:
        """Return the frames of whole latents of T frames: 4T - 3 frames."""
        frames, cache = self.decode_next(latents[:, :, :1], None)
        pieces = [frames]
        for start in range(1, latents.shape[2], latents_per_call):
            frames, cache = self.decode_next(latents[:, :, start : start + latents_per_call], cache)
            pieces.append(frames)
        return torch.cat(pieces, dim=2)

    @torch.inference_mode()
    def encode_next(self, frames: Tensor, cache: VaeCache | None) -> tuple[Tensor, VaeCache]:
        """Encode the next frames of a stream, all at once; `cache` is None for a stream's beginning.

        A beginning has 1 + 4n frames, every later piece 4n.
        """
        check_frames(frames, is_beginning=cache is None)
        frames = channels_last(frames.to(self.mean_C))
        if cache is not None:
            return self._run_encoder(frames, cache)
        slots: list[Tensor | None] = [None] * len(self._encoder_slots)
        first = self._normalise(self.network.quant_conv(self.network.encoder(frames[:, :, :1], slots, [0])))
        cache = cache_after_first_frame(slots, self._encoder_slots)
        if frames.shape[2] == 1:
            return first, cache
        rest, cache = self._run_encoder(frames[:, :, 1:], cache)
        return torch.cat([first, rest], dim=2), cache

    @torch.inference_mode()
    def decode_next(self, latents: Tensor, cache: VaeCache | None) -> tuple[Tensor, VaeCache]:
        """Decode the next latents of a stream, all at once; `cache` is None for a stream's beginning.

        A stream's first latent frame becomes 1 picture frame, each later one 4.
        """
        latents = channels_last(latents.to(self.mean_C))
        if cache is not None:
            return self._run_decoder(latents, cache)
        slots: list[Tensor | str | None] = [None] * len(self._decoder_slots)
        hidden = self.network.post_quant_conv(self._denormalise(latents[:, :, :1]))
        first = self.network.decoder(hidden, slots, [0], first_chunk=True).clamp(-1, 1)
        cache = cache_after_first_latent(slots)
        if latents.shape[2] == 1:
            return first, cache
        rest, cache = self._run_decoder(latents[:, :, 1:], cache)
        return torch.cat([first, rest], dim=2), cache

    def _encode_steady(self, frames: Tensor, cache: VaeCache) -> tuple[Tensor, VaeCache]:
        slots: list[Tensor | None] = list(cache)
        hidden = self.network.encoder(frames, slots, [0])
        return self._normalise(self.network.quant_conv(hidden)), complete(slots)

    def _decode_steady(self, latents: Tensor, cache: VaeCache) -> tuple[Tensor, VaeCache]:
        slots: list[Tensor | None] = list(cache)
        hidden = self.network.post_quant_conv(self._denormalise(latents))
        frames = self.network.decoder(hidden, slots, [0]).clamp(-1, 1)
        return frames, complete(slots)

    def _normalise(self, moments: Tensor) -> Tensor:
        """Return the normalised mean of the posterior; nothing is sampled."""
        mean, _ = moments.chunk(2, dim=1)
        return (mean - _per_channel(self.mean_C)) * _per_channel(self.inverse_std_C)

    def _denormalise(self, latents: Tensor) -> Tensor:
        return latents / _per_channel(self.inverse_std_C) + _per_channel(self.mean_C)


def load_vae(path: Path, *, device: torch.device | str, dtype: torch.dtype) -> StreamingVae:
    """Load `Wan2.1_VAE.pth`."""
    state_dict = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return build_vae(state_dict, device=device, dtype=dtype)


def build_vae(
    state_dict: Mapping[str, Tensor], *, device: torch.device | str, dtype: torch.dtype
) -> StreamingVae:
    """Build the autoencoder around the original checkpoint's tensors; its width is read from their shapes."""
    config = json.loads((files(__package__) / "wan2_1_vae.json").read_text(encoding="utf-8"))
    config["base_dim"] = state_dict["encoder.conv1.weight"].shape[0]
    with torch.device("meta"):
        network = AutoencoderKLWan.from_config(config)
    network.load_state_dict(convert_wan_vae_to_diffusers(dict(state_dict)), strict=True, assign=True)
    return StreamingVae(network).to(device=device, dtype=dtype)


def check_frames(frames: Tensor, *, is_beginning: bool) -> None:
    """Raise ValueError unless a piece of video has 1 + 4n frames at the beginning of a stream, 4n later."""
    if frames.shape[2] % FRAMES_PER_LATENT != is_beginning:
        start = "1 + 4n frames" if is_beginning else "4n frames"
        raise ValueError(f"{frames.shape[2]} frames given, {start} expected")


def cache_bytes(cache: VaeCache) -> int:
    """Return the memory that a stream's cache holds."""
    return sum(tensor.numel() * tensor.element_size() for tensor in cache)


def cache_slots(half: nn.Module) -> list[bool]:
    """Return, for each cached convolution in execution order, whether it changes the frame rate."""
    names = [name for name, module in half.named_modules() if isinstance(module, WanCausalConv3d)]
    return [name.endswith("time_conv") for name in names if not name.endswith("conv_shortcut")]


def cache_after_first_frame(slots: Sequence[Tensor | None], changes_rate: Sequence[bool]) -> VaeCache:
    """Turn what an encoder's first frame leaves behind into tensors of the steady shape."""
    return tuple(
        _as_cache(tensor) if is_resampling else _two_frames(tensor)
        for tensor, is_resampling in zip(complete(slots), changes_rate, strict=True)
    )


def complete(slots: Sequence[Tensor | None]) -> VaeCache:
    """Return the cache that a steady call leaves behind."""
    return tuple(_as_cache(tensor) for tensor in slots if tensor is not None)


def _two_frames(history: Tensor) -> Tensor:
    """Put the zeros in front that a causal convolution would pad with anyway: the cache keeps one shape."""
    return _as_cache(F.pad(history, (0, 0, 0, 0, _HISTORY - history.shape[2], 0)))


def cache_after_first_latent(slots: Sequence[Tensor | str | None]) -> VaeCache:
    """Turn what the first latent leaves behind into tensors of the steady shape.

    An upsampling convolution that has not run yet is only marked; it starts from zeros, in the shape that the
    convolution before it works in.
    """
    cache: list[Tensor] = []
    for slot in slots:
        cache.append(_two_frames(slot) if isinstance(slot, Tensor) else torch.zeros_like(cache[-1]))
    return tuple(cache)


def channels_last(video: Tensor) -> Tensor:
    """Return the video in the memory layout in which graphics cards convolve fastest."""
    return video.contiguous(memory_format=torch.channels_last_3d)


def _as_cache(history: Tensor) -> Tensor:
    """Copy into the one memory layout that compiled code is made for, down to the stride of a batch of one."""
    return history.clone(memory_format=torch.channels_last_3d)


def _per_channel(values_C: Tensor) -> Tensor:
    return values_C.view(1, -1, 1, 1, 1)


def _use_channels_last(network: nn.Module) -> None:
    """Store convolution weights in the layout in which GPUs run them fastest; results stay the same."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = channels_last(module.weight.data)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


class _Upsampling(WanResample):
    """Doubles height, width and, from a stream's second piece on, the frame rate.

    diffusers' own asks whether its history equals a word, which torch 2.11 cannot compile for a tensor.
    """

    def forward(self, x: Tensor, feat_cache: list[Any], feat_idx: list[int]) -> Tensor:
        """Return the upsampled frames and leave the last frames of the input in the cache."""
        slot = feat_idx[0]
        history = feat_cache[slot]
        if not isinstance(history, Tensor):
            upsampled: Tensor = super().forward(x, feat_cache, feat_idx)
            return upsampled
        feat_cache[slot] = torch.cat([history, x[:, :, -_HISTORY:]], dim=2)[:, :, -_HISTORY:].clone()
        feat_idx[0] += 1
        pairs_B2CFHW = self.time_conv(x, history).unflatten(1, (2, -1))
        frames = pairs_B2CFHW.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        pictures = self.resample(frames.transpose(1, 2).flatten(0, 1))
        return pictures.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def _use_own_upsampling(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, WanResample) and module.mode == "upsample3d":
            module.__class__ = _Upsampling


class _Convolution(WanCausalConv3d):
    """Asks oneDNN itself on a processor.

    PyTorch's own choice for one short piece of small pictures in 32 bits is a loop that takes up to ten times longer.
    A compiler chooses for itself.
    """

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
            return torch.mkldnn_convolution(
                x, weight, bias, self.padding, self.stride, self.dilation, self.groups
            )
        convolved: Tensor = super()._conv_forward(x, weight, bias)
        return convolved


def _use_own_convolutions(network: nn.Module) -> None:
    if not torch.backends.mkldnn.is_available():
        return
    for module in network.modules():
        if isinstance(module, WanCausalConv3d):
            module.__class__ = _Convolution

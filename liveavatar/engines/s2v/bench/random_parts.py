"""The engine's networks with random weights: they measure arithmetic and memory, not pictures."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn.utils import parametrize
from transformers import Wav2Vec2Config, Wav2Vec2Model

from liveavatar.conditioning.audio import AudioEncoder
from liveavatar.core.plan import ExecutionPlan
from liveavatar.engines.s2v.bench.random_transformer import random_transformer
from liveavatar.engines.s2v.parts import Parts
from liveavatar.models.s2v import S2V_14B
from liveavatar.models.tiled_vae import tiled
from liveavatar.models.vae import StreamingVae

_PROMPT_TOKENS = 128
VAE_WIDTH = {"full": 96, "tiny": 8}  # of the first layer; 96 is the published one
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "full": S2V_14B,
    "tiny": S2V_14B
    | {
        "dim": 96,
        "ffn_dim": 160,
        "num_heads": 6,
        "num_layers": 4,
        "freq_dim": 64,
        "text_dim": 40,
        "audio_dim": 32,
        "audio_inject_layers": [0, 2],
    },
}
_SPEECH: dict[str, dict[str, Any]] = {
    "full": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    },
}


class RandomPrompts:
    """Stands for the text encoder: every prompt has the same random embedding."""

    def __init__(self, width: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._embedding = torch.randn(_PROMPT_TOKENS, width, generator=generator)

    def encode(self, prompt: str) -> Tensor:
        """Return [tokens, width], float32."""
        return self._embedding

    def move_to(self, device: torch.device) -> None:
        """Stay where it is: nothing is computed."""

    def release(self) -> None:
        """Hold nothing that could be given back."""


def random_parts(model: str, plan: ExecutionPlan, device: torch.device) -> Parts:
    """Return the parts as the plan wants them loaded, `model` "full" (as published) or "tiny"."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    transformer = random_transformer(TRANSFORMERS[model], plan, device, dtype)
    vae = random_vae(VAE_WIDTH[model], device, dtype)
    return Parts(
        transformer=transformer,
        vae=tiled(vae) if plan.tiled_vae else vae,
        audio_encoder=random_audio_encoder(_SPEECH[model], device, dtype),
        prompts=RandomPrompts(transformer.config["text_dim"]),
    )


def with_layers(num_layers: int) -> dict[str, Any]:
    """Return what a transformer configuration says of its layers when there are so many."""
    injected = [index for index in S2V_14B["audio_inject_layers"] if index < num_layers]
    return {"num_layers": num_layers, "audio_inject_layers": injected}


def random_vae(width: int, device: torch.device, dtype: torch.dtype) -> StreamingVae:
    """Return a video autoencoder of the given base width; 96 is the published one."""
    text = (files("liveavatar.models") / "wan2_1_vae.json").read_text(encoding="utf-8")
    with device:
        network = AutoencoderKLWan.from_config(json.loads(text) | {"base_dim": width})
    return StreamingVae(network).to(device=device, dtype=dtype)


def random_audio_encoder(shape: dict[str, Any], device: torch.device, dtype: torch.dtype) -> AudioEncoder:
    """Return a speech encoder laid out like wav2vec2-large-xlsr-53."""
    config = Wav2Vec2Config(
        num_hidden_layers=24,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        apply_spec_augment=False,
        layerdrop=0.0,
        **shape,
    )
    network: Any = Wav2Vec2Model(config)
    parametrize.remove_parametrizations(network.encoder.pos_conv_embed.conv, "weight")
    network.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return AudioEncoder(network)

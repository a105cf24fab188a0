"""Prompt -> text embedding: the umT5-xxl encoder from its original checkpoint file, real tokens only."""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from liveavatar.conditioning.prompt_cache import PromptCache
from liveavatar.conditioning.prompt_text import clean_prompt
from liveavatar.loading.checkpoint import CheckpointLayout, archive_fingerprint

logger = logging.getLogger(__name__)

MAX_TOKENS = 512
_HEAD_SHAPE_KEY = "blocks.0.pos_embedding.embedding.weight"  # [buckets, heads]

_TOP_LEVEL = {"token_embedding.weight": "shared.weight", "norm.weight": "encoder.final_layer_norm.weight"}
_IN_BLOCK = {
    "norm1.weight": "layer.0.layer_norm.weight",
    "attn.q.weight": "layer.0.SelfAttention.q.weight",
    "attn.k.weight": "layer.0.SelfAttention.k.weight",
    "attn.v.weight": "layer.0.SelfAttention.v.weight",
    "attn.o.weight": "layer.0.SelfAttention.o.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}


def convert_umt5_keys(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the original checkpoint's tensors to those of `UMT5EncoderModel`. Raise KeyError for others."""
    converted = {}
    for key, tensor in state_dict.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
        name = f"encoder.block.{match[1]}.{_IN_BLOCK[match[2]]}" if match else _TOP_LEVEL[key]
        converted[name] = tensor
    # Tied to `shared`, but assigning to a model on the meta device needs both names.
    converted["encoder.embed_tokens.weight"] = converted["shared.weight"]
    return converted


def build_text_encoder(
    state_dict: Mapping[str, Tensor], *, device: torch.device | str, dtype: torch.dtype
) -> UMT5EncoderModel:
    """Build the encoder around the original checkpoint's tensors; its sizes are read from their shapes."""
    vocabulary, width = state_dict["token_embedding.weight"].shape
    num_buckets, num_heads = state_dict[_HEAD_SHAPE_KEY].shape
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=state_dict["blocks.0.attn.q.weight"].shape[0] // num_heads,
        d_ff=state_dict["blocks.0.ffn.fc1.weight"].shape[0],
        num_layers=sum(key.endswith(".norm1.weight") for key in state_dict),
        num_heads=num_heads,
        relative_attention_num_buckets=num_buckets,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    with torch.device("meta"):
        encoder = UMT5EncoderModel(config)
    encoder.load_state_dict(convert_umt5_keys(state_dict), strict=True, assign=True)
    module: torch.nn.Module = encoder  # the subclass hides `to` and `eval` behind untyped decorators
    module.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return encoder


@torch.inference_mode()
def embed_tokens(encoder: UMT5EncoderModel, token_ids: Tensor) -> Tensor:
    """Return the embedding [num_tokens, width] of one prompt's real tokens [num_tokens].

    Padding is masked inside the published encoder, so leaving it out changes nothing but the time.
    """
    hidden: Tensor = encoder(input_ids=token_ids[None].to(encoder.device)).last_hidden_state
    return hidden[0]


class PromptEncoder:
    """Encodes prompts; loads the 11 GB encoder only for a prompt that the cache does not know."""

    def __init__(
        self,
        layout: CheckpointLayout,
        *,
        cache: PromptCache | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self._path = layout.text_encoder
        self._tokenizer = load_tokenizer(layout.tokenizer, max_tokens=max_tokens)
        self._cache = cache
        self._device, self._dtype = device, dtype
        self._model_identity = f"{archive_fingerprint(self._path)}-{dtype}-{max_tokens}"
        self._encoder: UMT5EncoderModel | None = None

    def encode(self, prompt: str) -> Tensor:
        """Return the embedding [num_tokens, width] on the CPU; an empty prompt is its end token alone."""
        text = clean_prompt(prompt)
        if self._cache is not None:
            stored = self._cache.load(text, self._model_identity)
            if stored is not None:
                return stored
        token_ids = torch.tensor(self._tokenizer.encode(text).ids)
        if self._encoder is None:
            self._encoder = load_text_encoder(self._path, device=self._device, dtype=self._dtype)
        embedding = embed_tokens(self._encoder, token_ids).cpu()
        if self._cache is not None:
            self._cache.store(text, self._model_identity, embedding)
        return embedding

    def move_to(self, device: torch.device) -> None:
        """Encode on another device from now on."""
        if device != torch.device(self._device):
            self.release()
            self._device = device

    def release(self) -> None:
        """Give the encoder's memory back, to the driver too; the next unknown prompt loads it again."""
        if self._encoder is not None:
            self._encoder = None
            gc.collect()  # its layers refer to each other
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def load_text_encoder(path: Path, *, device: torch.device | str, dtype: torch.dtype) -> UMT5EncoderModel:
    """Load `models_t5_umt5-xxl-enc-bf16.pth`."""
    logger.info("Loading the text encoder from %s", path)
    state_dict = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return build_text_encoder(state_dict, device=device, dtype=dtype)


def load_tokenizer(folder: Path, *, max_tokens: int = MAX_TOKENS) -> Tokenizer:
    """Load `google/umt5-xxl`; it ends every prompt with its end token and cuts it to `max_tokens`."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=max_tokens)
    return tokenizer

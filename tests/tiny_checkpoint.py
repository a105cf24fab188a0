"""Write a tiny checkpoint in the exact layout of the published one: python tests/tiny_checkpoint.py DIR

The weights are random, those of the golden cases: a few megabytes that go through the code that loads the real
files, and whose parts fit each other. A prompt may have up to 24 tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"
FOLDER_NAME = "Wan2.2-S2V-14B"
NUM_SHARDS = 4
LORA_RANK = 4
_LORA_TARGETS = (".q.weight", ".k.weight", ".v.weight", ".o.weight", ".ffn.0.weight", ".ffn.2.weight")
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,.!?'-:"


def write_tiny_checkpoint(folder: Path) -> Path:
    """Write `Wan2.2-S2V-14B` and `LiveAvatar` into a folder; return the former."""
    checkpoint = folder / FOLDER_NAME
    checkpoint.mkdir(parents=True)
    manifest = json.loads((GOLDEN / "e2e_single_public.json").read_text())
    transformer = _tensors(manifest["dit_weights"])
    encoders = _tensors(manifest["files"]["weights"])
    _write_transformer(checkpoint, transformer, manifest["config"]["model"])
    torch.save(_with_prefix(encoders, "t5.", torch.bfloat16), checkpoint / "models_t5_umt5-xxl-enc-bf16.pth")
    _write_tokenizer(checkpoint / "google" / "umt5-xxl", manifest["config"]["t5"]["vocab"])
    vae = {name: tensor.float() for name, tensor in _tensors(manifest["vae_weights"]).items()}
    torch.save(vae, checkpoint / "Wan2.1_VAE.pth")
    audio_weights = _with_prefix(encoders, "wav2vec2.", torch.float32)
    _write_audio_encoder(
        checkpoint / "wav2vec2-large-xlsr-53-english", audio_weights, manifest["config"]["wav2vec2"]
    )
    _write_lora(folder / "LiveAvatar", transformer)
    return checkpoint


def _tensors(file_name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / file_name)


def _with_prefix(tensors: dict[str, Tensor], prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor.to(dtype)
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _write_transformer(folder: Path, tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    content = {"_class_name": "WanModel_S2V", "_diffusers_version": "0.34.0", **config}
    (folder / "config.json").write_text(json.dumps(content, indent=2))
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(NUM_SHARDS):
        file_name = f"diffusion_pytorch_model-{shard + 1:05}-of-{NUM_SHARDS:05}.safetensors"
        content_of_shard = {name: tensors[name].bfloat16() for name in names[shard::NUM_SHARDS]}
        save_file(content_of_shard, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(content_of_shard, file_name)
    total_size = sum(2 * tensor.numel() for tensor in tensors.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def _write_tokenizer(folder: Path, vocabulary_size: int) -> None:
    """Write a tokenizer of single letters that works like the published one, end token included."""
    folder.mkdir(parents=True)
    special = ["<pad>", "</s>", "<s>", "<unk>", "▁"]
    pieces = [*special, *_LETTERS][:vocabulary_size]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(special[:4])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))


def _write_audio_encoder(folder: Path, tensors: dict[str, Tensor], config: dict[str, object]) -> None:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "wav2vec2", **config}))
    preparation = {"do_normalize": True, "sampling_rate": 16_000, "return_attention_mask": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    (folder / "vocab.json").write_text(
        json.dumps({letter: index for index, letter in enumerate("abcdefghijkl")})
    )


def _write_lora(folder: Path, transformer: dict[str, Tensor]) -> None:
    """Write an adapter for every layer that the published one adapts."""
    generator = torch.Generator().manual_seed(0)
    adapter = {}
    for name, weight in transformer.items():
        if name.endswith(_LORA_TARGETS) and name.startswith(("blocks.", "audio_injector.")):
            layer = name.removesuffix(".weight")
            rows, columns = weight.shape
            adapter[f"{layer}.lora_A.default.weight"] = (
                torch.randn(LORA_RANK, columns, generator=generator) * 0.05
            )
            adapter[f"{layer}.lora_B.default.weight"] = (
                torch.randn(rows, LORA_RANK, generator=generator) * 0.05
            )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(adapter, folder / "liveavatar.safetensors")


if __name__ == "__main__":
    write_tiny_checkpoint(Path(sys.argv[1]))

"""Where the files of the published checkpoint lie, and what their headers say. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveavatar.loading.file_headers import DamagedFile, Headers, archive_fingerprint, read_headers

__all__ = ["CheckpointLayout", "DamagedFile", "Headers", "archive_fingerprint", "read_headers"]

LORA_NAME = "liveavatar.safetensors"
_AUDIO_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True, kw_only=True)
class CheckpointLayout:
    """The folder `Wan2.2-S2V-14B` as published, and the LoRA that turns it into LiveAvatar."""

    folder: Path
    lora: Path | None = None

    @classmethod
    def find(cls, folder: Path, lora: Path | None = None) -> CheckpointLayout:
        """Return the layout; a LoRA that is not named is looked for inside the folder and beside it."""
        candidates = (
            folder / LORA_NAME,
            folder / "LiveAvatar" / LORA_NAME,
            folder.parent / "LiveAvatar" / LORA_NAME,
        )
        if lora is None:
            lora = next((path for path in candidates if path.is_file()), None)
        elif lora.is_dir():
            lora = lora / LORA_NAME
        return cls(folder=folder, lora=lora)

    @property
    def transformer_config(self) -> Path:
        """JSON with the sizes of the transformer."""
        return self.folder / "config.json"

    @property
    def transformer_index(self) -> Path:
        """JSON that says which shard holds which tensor."""
        return self.folder / "diffusion_pytorch_model.safetensors.index.json"

    @property
    def text_encoder(self) -> Path:
        """The umT5 encoder, original keys."""
        return self.folder / "models_t5_umt5-xxl-enc-bf16.pth"

    @property
    def tokenizer(self) -> Path:
        """Folder with the text encoder's tokenizer.json."""
        return self.folder / "google" / "umt5-xxl"

    @property
    def vae(self) -> Path:
        """The video autoencoder, original keys."""
        return self.folder / "Wan2.1_VAE.pth"

    @property
    def audio_encoder(self) -> Path:
        """Folder with wav2vec2's configuration and weights."""
        return self.folder / "wav2vec2-large-xlsr-53-english"

    @property
    def audio_encoder_weights(self) -> Path:
        """Wav2vec2's weights: safetensors where there are any."""
        found = (self.audio_encoder / name for name in _AUDIO_WEIGHTS)
        return next((path for path in found if path.is_file()), self.audio_encoder / _AUDIO_WEIGHTS[0])

    def read_transformer_config(self) -> dict[str, Any]:
        """Return config.json. Raise FileNotFoundError or DamagedFile."""
        return _read_json(self.transformer_config)

    def transformer_shards(self) -> dict[Path, frozenset[str]]:
        """Return the transformer's files and the tensors the index expects in each.

        A checkpoint in a single file has no index and expects nothing. Raise FileNotFoundError or DamagedFile.
        """
        single = self.folder / "diffusion_pytorch_model.safetensors"
        if not self.transformer_index.is_file() and single.is_file():
            return {single: frozenset()}
        weight_map = _read_json(self.transformer_index).get("weight_map")
        if not isinstance(weight_map, Mapping) or not weight_map:
            raise DamagedFile("does not say which file holds which tensor")
        shards: dict[Path, set[str]] = {}
        for tensor_name, file_name in weight_map.items():
            shards.setdefault(self.folder / file_name, set()).add(tensor_name)
        return {path: frozenset(names) for path, names in sorted(shards.items())}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFile("is not readable as JSON") from error
    if not isinstance(content, dict):
        raise DamagedFile("does not hold what its name says")
    return content

"""Text embeddings on disk, so that a prompt seen before never needs the text encoder again."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

logger = logging.getLogger(__name__)


class PromptCache:
    """A folder of embeddings, one file per prompt and encoder, the longest unused deleted first.

    Files are named by a hash: the folder does not tell what people wrote. Several processes may share it.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 256 * 2**20) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, prompt: str, encoder: str) -> Tensor | None:
        """Return the embedding [num_tokens, width], or None when it has to be computed."""
        path = self._path(prompt, encoder)
        try:
            embedding = load_file(path)["embedding"]
            os.utime(path)  # used now: the last to be deleted
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError):
            logger.warning("%s is damaged and is made again", path)
            path.unlink(missing_ok=True)
            return None
        return embedding

    def store(self, prompt: str, encoder: str, embedding: Tensor) -> None:
        """Keep the embedding; files appear whole or not at all."""
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".partial", delete=False) as file:
            partial = Path(file.name)
        save_file({"embedding": embedding.contiguous()}, partial)
        partial.replace(self._path(prompt, encoder))
        self._drop_oldest()

    def _path(self, prompt: str, encoder: str) -> Path:
        digest = hashlib.sha256(f"{encoder}\0{prompt}".encode()).hexdigest()
        return self._folder / f"{digest}.safetensors"

    def _drop_oldest(self) -> None:
        files = []
        for path in self._folder.glob("*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process dropped it
                continue
            files.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in files) - self._max_bytes
        for _, size, path in sorted(files)[:-1]:  # the newest stays, however large
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size

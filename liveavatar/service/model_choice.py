"""Where the s2v engine's model lies: named when the app starts, else chosen on the page and remembered."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

from liveavatar.config import AppConfig
from liveavatar.core.errors import InputRejected
from liveavatar.diagnostics.doctor import inspect_checkpoint

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFolders:
    """The folder Wan2.2-S2V-14B and liveavatar.safetensors; None: none, or found inside or beside the folder."""

    ckpt_dir: Path | None = None
    lora_path: Path | None = None


class ModelChoice:
    """The folders in use. What was named at the start stands; a choice is kept in `model.json` of the data folder."""

    def __init__(self, config: AppConfig) -> None:
        self._path = config.data_dir / "model.json"
        self.is_fixed = config.ckpt_dir is not None
        named = ModelFolders(ckpt_dir=config.ckpt_dir, lora_path=config.lora_path)
        self.folders = named if self.is_fixed else _read(self._path)

    def choose(self, ckpt_dir: str, lora_path: str) -> None:
        """Use these folders from the next video on; an empty `ckpt_dir` does without the model.

        Raises InputRejected with what is missing or damaged; the folders in use then stay.
        """
        assert not self.is_fixed, "the page offers no choice then"
        folders = ModelFolders(ckpt_dir=_path(ckpt_dir), lora_path=_path(lora_path))
        if folders.ckpt_dir is not None:
            report = inspect_checkpoint(folders.ckpt_dir, folders.lora_path)
            if not report.is_usable:
                raise InputRejected(report.problems[0])
        self.folders = folders
        fields = {name: str(value) for name, value in vars(folders).items() if value is not None}
        try:
            self._path.write_text(json.dumps(fields), encoding="utf-8")
        except OSError as error:  # it holds until the app ends
            log.warning("the choice of the model could not be written to %s: %s", self._path, error)


def _path(text: str) -> Path | None:
    return Path(text.strip()).expanduser().absolute() if text.strip() else None


def _read(path: Path) -> ModelFolders:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return ModelFolders(**{name: Path(value) for name, value in fields.items()})
    except (OSError, ValueError, TypeError, AttributeError):  # missing or damaged: nothing was chosen
        return ModelFolders()

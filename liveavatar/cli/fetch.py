"""python -m liveavatar fetch --to DIR: download the s2v engine's model, about 45 GB, and check it.

What is already there is not fetched again, and a download that broke off goes on where it stopped. Exit codes:
0 the model is whole, 1 it is not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from liveavatar.core.errors import Diagnosis
from liveavatar.core.memory import gb_text
from liveavatar.diagnostics.doctor import LORA_REPOSITORY, REPOSITORY, inspect_checkpoint
from liveavatar.loading.checkpoint import LORA_NAME

if TYPE_CHECKING:
    from huggingface_hub import DryRunFileInfo

WHOLE, NOT_WHOLE = 0, 1

CHECKPOINT_FOLDER, LORA_FOLDER = "Wan2.2-S2V-14B", "LiveAvatar"
_NEEDED = (
    "config.json",
    "diffusion_pytorch_model*.safetensors*",
    "models_t5_umt5-xxl-enc-bf16.pth",
    "Wan2.1_VAE.pth",
    "google/umt5-xxl/*",
    "wav2vec2-large-xlsr-53-english/*.json",
)
# The speech encoder's weights in the order of preference: one of them is enough.
_SPEECH_WEIGHTS = (
    "wav2vec2-large-xlsr-53-english/model.safetensors",
    "wav2vec2-large-xlsr-53-english/pytorch_model.bin",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for the model")


def run(options: argparse.Namespace) -> int:
    """Download with a progress bar, then check; return the exit code."""
    folder: Path = options.to
    problem = _fetch(folder)
    if problem is None:
        report = inspect_checkpoint(folder / CHECKPOINT_FOLDER, folder / LORA_FOLDER / LORA_NAME)
        problem = report.problems[0] if report.problems else None
    if problem is not None:
        sys.stderr.write(problem.sentence() + "\n")
        return NOT_WHOLE
    sys.stdout.write(
        f"The model is whole. Start with: python app.py --ckpt-dir {folder / CHECKPOINT_FOLDER}\n"
    )
    return WHOLE


def needed_files(names: Sequence[str]) -> list[str]:
    """Return what the engine reads of all files that a repository offers."""
    needed = [name for name in names if any(fnmatch(name, pattern) for pattern in _NEEDED)]
    return needed + [name for name in _SPEECH_WEIGHTS if name in names][:1]


def _fetch(folder: Path) -> Diagnosis | None:
    """Download both repositories; return why that failed."""
    from huggingface_hub import hf_hub_download, snapshot_download  # only this command speaks to the network
    from huggingface_hub.errors import DryRunError, HfHubHTTPError, LocalEntryNotFoundError

    checkpoint = folder / CHECKPOINT_FOLDER
    try:
        checkpoint.mkdir(parents=True, exist_ok=True)
        offered = snapshot_download(REPOSITORY, local_dir=checkpoint, dry_run=True)
        names = needed_files([file.filename for file in offered])
        if problem := _no_room(folder, [file for file in offered if file.filename in names]):
            return problem
        snapshot_download(REPOSITORY, local_dir=checkpoint, allow_patterns=names)
        hf_hub_download(LORA_REPOSITORY, LORA_NAME, local_dir=folder / LORA_FOLDER)
    except (DryRunError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        return Diagnosis(
            code="model_not_fetched",
            title="The model could not be downloaded.",
            cause=str(error).splitlines()[0],
            remedy="Check the connection and run the same command again: it goes on where it stopped. For a machine "
            "without network, download on another one and copy the folder.",
        )
    except OSError as error:
        return Diagnosis(
            code="model_not_written",
            title="The model could not be written.",
            cause=f"{folder}: {error.strerror or error}.",
            remedy="Make room or choose another folder, then run the same command again.",
        )
    return None


def _no_room(folder: Path, files: Sequence[DryRunFileInfo]) -> Diagnosis | None:
    missing = sum(file.file_size or 0 for file in files if file.will_download)
    free = shutil.disk_usage(folder).free
    if missing <= free:
        return None
    return Diagnosis(
        code="disk_almost_full",
        title="The disk has too little room for the model.",
        cause=f"{gb_text(missing)} are to be downloaded, {gb_text(free)} are free in {folder}.",
        remedy="Make room or choose another folder with --to.",
    )

"""Where the traces of hung engines are kept for the operator and for support."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

_KEPT = 10


def new_failure_folder(base: Path) -> Path:
    """Make a folder named for now in `base`, and drop the oldest beyond the newest ten."""
    base.mkdir(parents=True, exist_ok=True)
    folders = sorted(path for path in base.iterdir() if path.is_dir())
    for old in folders[: max(0, len(folders) + 1 - _KEPT)]:
        shutil.rmtree(old, ignore_errors=True)
    name = time.strftime("%Y-%m-%d_%H%M%S")
    folder = base / name
    for number in range(2, 1000):
        if not folder.exists():
            break
        folder = base / f"{name}_{number}"
    folder.mkdir()
    return folder

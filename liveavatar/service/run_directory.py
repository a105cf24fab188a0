"""The directory of one start of an engine: socket files, and what its ranks leave behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

_PREFIX = "liveavatar-run-"
_UNLOCKED_PREFIX = "liveavatar-new-"  # nobody takes it for left behind


class RunDirectory:
    """A new directory that only this user can enter.

    It stays locked until `remove`, or until the system ends the lock with this process: by that the next one knows
    which directories killed processes left behind, in other containers too, where process ids would say nothing.
    """

    def __init__(self) -> None:
        """Make it in the user's directory for such things, after removing those that nobody holds any more."""
        base = os.environ.get("XDG_RUNTIME_DIR")
        parent = Path(base if base and Path(base).is_dir() else tempfile.gettempdir())
        _remove_left_behind(parent)
        made = Path(tempfile.mkdtemp(prefix=_UNLOCKED_PREFIX, dir=parent))
        self._lock = os.open(made, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = made.rename(parent / made.name.replace(_UNLOCKED_PREFIX, _PREFIX))

    def remove(self) -> None:
        """Remove it with all that is in it. It is not used again."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_left_behind(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody holds it, or it is another user's
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(lock)

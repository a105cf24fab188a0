"""No engine process outlives the app, however the app ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


class OrphanGuard:
    """Ends this process when its parent is gone: by the kernel on Linux, by asking now and then elsewhere."""

    def __init__(self, parent_pid: int) -> None:
        self._parent_pid = parent_pid
        if sys.platform == "linux":
            ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self.check()  # the parent may have died before the kernel was asked

    def check(self) -> None:
        """Leave at once when the parent is gone."""
        if os.getppid() != self._parent_pid:
            os._exit(1)

"""Which processes are ours: the app and everything it started, the engine among them."""

from __future__ import annotations

import psutil

_MAX_AGE_S = 1.0


class OwnProcesses:
    """The app's process tree, looked up at most once a second."""

    def __init__(self) -> None:
        self._app = psutil.Process()
        self._processes: list[psutil.Process] = []
        self._looked_at = float("-inf")

    def pids(self, now_s: float) -> frozenset[int]:
        """Return the process ids of the app and its descendants."""
        self._look(now_s)
        return frozenset(process.pid for process in self._processes)

    def rss_bytes(self, now_s: float) -> int:
        """Return the resident memory of all of them; pages that they share count more than once."""
        self._look(now_s)
        total = 0
        for process in self._processes:
            try:
                total += process.memory_info().rss
            except psutil.Error:  # it ended meanwhile
                continue
        return total

    def _look(self, now_s: float) -> None:
        if now_s - self._looked_at >= _MAX_AGE_S:
            self._looked_at = now_s
            try:
                self._processes = [self._app, *self._app.children(recursive=True)]
            except psutil.Error:
                self._processes = [self._app]


def program_name(pid: int) -> str:
    """Return the name of a program, empty when the system does not show it, as across container walls."""
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""

"""What the ranks of the running engine measured of themselves."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from liveavatar.core.events import Telemetry
from liveavatar.core.peaks import RankPeaks
from liveavatar.monitoring.history import PEAK_S


class Measurements:
    """The latest report of every rank, and the peaks of the job that runs. Safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int, int]] = deque()  # time, rank, peak
        self._latest: dict[int, Telemetry] = {}
        self._peaks: dict[int, RankPeaks] = {}

    def take(self, report: Telemetry) -> None:
        """Take in what a rank reports."""
        with self._lock:
            self._latest[report.rank] = report
            self._recent.append((self._clock(), report.rank, report.peak_bytes))
            self._forget_old()
            self._peaks.setdefault(report.rank, RankPeaks()).take(report)

    def begin_job(self) -> None:
        """Forget the peaks of earlier jobs."""
        with self._lock:
            self._peaks = {}

    def clear(self) -> None:
        """Forget everything: the engine is gone."""
        with self._lock:
            self._latest, self._peaks = {}, {}
            self._recent.clear()

    def latest(self) -> tuple[Telemetry, ...]:
        """Return the latest report of every rank, by rank."""
        with self._lock:
            return tuple(report for _, report in sorted(self._latest.items()))

    def recent_peaks(self) -> dict[int, int]:
        """Return the most that each rank's allocator held within the last ten seconds, however briefly."""
        with self._lock:
            self._forget_old()
            peaks: dict[int, int] = {}
            for _, rank, peak in self._recent:
                peaks[rank] = max(peaks.get(rank, 0), peak)
            return peaks

    def _forget_old(self) -> None:
        while self._recent and self._clock() - self._recent[0][0] > PEAK_S:
            self._recent.popleft()

    def peaks_of_job(self) -> dict[int, RankPeaks]:
        """Return the peaks of the job so far, by rank. Call it when the job is over: the values still grow before."""
        with self._lock:
            return dict(self._peaks)

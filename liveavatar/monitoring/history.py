"""The last seconds in full and the last two minutes in brief."""

from __future__ import annotations

from collections import deque

from liveavatar.monitoring.bottlenecks import WINDOW_S
from liveavatar.monitoring.readings import Reading

HISTORY_S = 120.0
BUCKET_S = 2.0
PEAK_S = 10.0  # longer than any page waits between two questions, so that no page misses a peak

_NUM_BUCKETS = int(HISTORY_S / BUCKET_S)


class History:
    """Readings of the last seconds, and of the last two minutes each card's highest use per two seconds."""

    def __init__(self) -> None:
        self._recent: deque[Reading] = deque()
        self._buckets: deque[tuple[int, dict[int, int]]] = deque(maxlen=_NUM_BUCKETS)

    @property
    def recent(self) -> list[Reading]:
        """Return the readings of the last ten seconds, oldest first."""
        return list(self._recent)

    def add(self, reading: Reading) -> None:
        """Take in the newest reading."""
        self._recent.append(reading)
        while reading.time_s - self._recent[0].time_s > max(WINDOW_S, PEAK_S):
            self._recent.popleft()
        number = int(reading.time_s // BUCKET_S)
        if not self._buckets or self._buckets[-1][0] != number:
            self._buckets.append((number, {}))
        highest = self._buckets[-1][1]
        for gpu in reading.gpus:
            highest[gpu.index] = max(highest.get(gpu.index, 0), gpu.used_bytes)

    def peak_bytes(self, index: int) -> int:
        """Return the most that was in use on a card within the last ten seconds."""
        return max(
            (gpu.used_bytes for reading in self._recent for gpu in reading.gpus if gpu.index == index),
            default=0,
        )

    def used_bytes(self, index: int) -> tuple[int | None, ...]:
        """Return a card's highest use for every two seconds up to now, oldest first; None where it was not read.

        Starts with the first reading there is, at most two minutes ago.
        """
        if not self._buckets:
            return ()
        last = self._buckets[-1][0]
        by_number = dict(self._buckets)
        first = max(self._buckets[0][0], last - _NUM_BUCKETS + 1)
        return tuple(by_number.get(number, {}).get(index) for number in range(first, last + 1))

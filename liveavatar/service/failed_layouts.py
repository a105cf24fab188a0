"""Remembers which layouts over several graphics cards keep failing, so that the next lower one is planned."""

from __future__ import annotations

import threading
from collections import Counter

from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan

_MAX_FAILURES = 2  # in a row; the first may be chance, and the same plan is the best there is


class FailedLayouts:
    """Counts failures in a row of each layout. One card is never given up: there is nothing below it.

    Written by the job runner, read by whoever plans.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_failures: Counter[ParallelPlan] = Counter()

    def failed(self, plan: ExecutionPlan) -> None:
        """Note that the engine broke down under this plan."""
        if plan.parallel is not None and plan.parallel.world_size > 1:
            with self._lock:
                self._num_failures[plan.parallel] += 1

    def worked(self, plan: ExecutionPlan) -> None:
        """Note that a video was made under this plan."""
        if plan.parallel is not None:
            with self._lock:
                self._num_failures.pop(plan.parallel, None)

    def avoided(self) -> frozenset[ParallelPlan]:
        """Return the layouts not to plan with; they are tried again after the app's next start."""
        with self._lock:
            return frozenset(layout for layout, count in self._num_failures.items() if count >= _MAX_FAILURES)

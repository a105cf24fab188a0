"""How long a running job may show nothing, from being sent to its end."""

from __future__ import annotations

import time

from liveavatar.config import Deadlines
from liveavatar.core.events import Chunk, EngineEvent, PlanChanged, Progress
from liveavatar.core.plan import ExecutionPlan


class JobDeadline:
    """The wait for the next sign of progress: a first picture, then the next part, then the stop if one was asked."""

    def __init__(self, deadlines: Deadlines, plan: ExecutionPlan) -> None:
        self._deadlines, self._plan = deadlines, plan
        self._is_stopping = False
        self._begin(deadlines.first_pictures_s(plan), "show a first picture")

    def stopping(self) -> None:
        """Note that the operator stopped the job: from now on its end is waited for."""
        self._is_stopping = True
        self._begin(self._deadlines.stopping_s(self._plan), "stop")

    def take(self, event: EngineEvent) -> None:
        """Note what the engine sent."""
        if self._is_stopping:
            return
        if isinstance(event, Chunk):
            self._begin(self._deadlines.next_pictures_s(self._plan), "make the next part of the video")
        elif isinstance(event, PlanChanged):  # a new size is compiled for
            self._plan = event.plan
            self._begin(self._deadlines.first_pictures_s(event.plan), "go on after a change")
        elif isinstance(event, Progress):
            self._since = time.monotonic()

    def has_passed(self) -> bool:
        """Whether the engine let the deadline pass."""
        return time.monotonic() - self._since > self.limit_s

    def _begin(self, limit_s: float, phrase: str) -> None:
        self._since, self.limit_s, self.phrase = time.monotonic(), limit_s, phrase

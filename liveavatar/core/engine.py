"""The one contract between the worker and an engine: a streaming iterator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from liveavatar.core.events import Adjust, EngineEvent, LoadStage, Telemetry
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import ValidatedRequest

OnLoadStage = Callable[[LoadStage], None]


def not_shown(stage: LoadStage) -> None:
    """Show nobody how far loading is."""


class Engine(Protocol):
    """Makes videos. One engine lives in one worker process and makes one video at a time."""

    def load(self, plan: ExecutionPlan, on_stage: OnLoadStage = not_shown) -> Telemetry | None:
        """Load weights and warm up through the real path. Raise EngineFailed when that is impossible.

        `on_stage` is called where a stage begins that an operator may have to wait for. Returns what was measured,
        None when the engine measures nothing.
        """

    def generate(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        """Yield Progress, Chunk, Notice, PlanChanged and Telemetry, then exactly one Finished or Cancelled.

        `should_stop` is asked between chunks; when it says yes the engine flushes its encoder, so that the
        partial video plays, and yields Cancelled. Raises LiveAvatarError for what an operator can mend.
        """

    def adjust(self, wish: Adjust) -> None:
        """Have the running video made otherwise from the next boundary on, where the engine can.

        Returns at once; called from another thread than `generate`. The answer is an event of the job.
        """

    def measure(self) -> Telemetry | None:
        """Return what the engine holds between two videos, None when it measures nothing."""

    def close(self) -> None:
        """Release everything. The engine is not used again."""

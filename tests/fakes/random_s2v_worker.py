"""The s2v engine at full size with random weights in a worker process, on a graphics card that can be made smaller.

CARD_LIMIT names a file; as soon as it exists, this process may hold no more than the bytes that it says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from liveavatar.core.events import EngineEvent
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import ValidatedRequest
from liveavatar.engines.s2v.bench.random_parts import random_parts
from liveavatar.engines.s2v.engine import S2vEngine
from liveavatar.engines.s2v.memory import give_back
from liveavatar.engines.s2v.parts import Parts
from liveavatar.worker.serve import Worker
from tests.fakes.worker import FakeEngine


def load_random_parts(plan: ExecutionPlan) -> Parts:
    """Return the published model's size of everything, without its files."""
    parts = random_parts("full", plan, torch.device("cuda"))
    parts.transformer.select_attention()
    return parts


class CappedS2vEngine(S2vEngine):
    """The engine itself; torch refuses what is above the limit, as a card does that is full."""

    def __init__(self) -> None:
        self._limit_file = Path(os.environ["CARD_LIMIT"])
        super().__init__(load_random_parts)

    def generate(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        try:
            for event in super().generate(request, plan, should_stop=should_stop):
                if self._limit_file.exists():
                    give_back()
                    total_bytes = torch.cuda.mem_get_info()[1]
                    torch.cuda.set_per_process_memory_fraction(
                        int(self._limit_file.read_text()) / total_bytes
                    )
                    self._limit_file.unlink()
                yield event
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


def main() -> None:
    """Serve until told to leave."""
    Worker(Path(sys.argv[1]), int(sys.argv[2]), {"s2v": CappedS2vEngine, "portrait": FakeEngine}).run()


if __name__ == "__main__":
    main()

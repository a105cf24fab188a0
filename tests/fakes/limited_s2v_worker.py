"""The s2v engine in a worker process whose memory is as large as a file says.

The file is named by FAKE_MEMORY and looked at all the time. It holds JSON: `available_bytes`, what a driver would say
is to be had, and `limit_bytes`, above which allocations fail; `limited_rank`: on that one of several ranks only.
`hold_before_block`: a video waits before that block for as long as it is named, so that what a test changes meanwhile
comes in time on any machine. Once the engine knows a wish of the operator, a file `.wished` lies beside.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from liveavatar.config import process_rank
from liveavatar.core.events import Adjust, EngineEvent
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import ValidatedRequest
from liveavatar.engines.s2v import parts
from liveavatar.engines.s2v.bench.random_parts import random_vae
from liveavatar.engines.s2v.engine import S2vEngine
from liveavatar.engines.s2v.parts import Parts, load_parts
from liveavatar.models.vae import StreamingVae
from liveavatar.planning import choice, s2v_request
from liveavatar.worker.serve import Worker
from tests.fakes.allocation_limit import AllocationLimit
from tests.fakes.worker import FakeEngine

MIB = 2**20
# Tiny picture sizes stand for the offered ones.
AREAS = (128 * 64, 64 * 64)
AREA_BY_AVAILABLE = ((100 * MIB, 64 * 64),)

_MAX_AGE_S = 0.05


def load_light_parts(plan: ExecutionPlan, *, width: int = 2) -> Parts:
    """Load a checkpoint, with a thinner autoencoder: what is made does not matter, and time does."""
    torch.manual_seed(0)
    return dataclasses.replace(load_parts(plan), vae=random_vae(width, torch.device("cpu"), torch.float32))


def light_vae(path: Path, *, device: torch.device, dtype: torch.dtype) -> StreamingVae:
    """Return a thinner autoencoder in place of the file's, the same every time."""
    torch.manual_seed(0)
    return random_vae(2, device, dtype)


class MemoryFile:
    """What the file says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at = float("-inf")
        self._content: dict[str, Any] = {}

    @property
    def limit_bytes(self) -> float:
        """Return the limit of this rank."""
        limited_rank = self["limited_rank"]
        return self["limit_bytes"] if limited_rank in (None, process_rank()) else math.inf

    def __getitem__(self, name: str) -> Any:
        if time.monotonic() - self._read_at > _MAX_AGE_S:
            self._content = json.loads(self.path.read_text())
            self._read_at = time.monotonic()
        return self._content.get(name)


class LimitedS2vEngine(S2vEngine):
    """The engine itself; the limit holds while it makes videos."""

    def __init__(self) -> None:
        self._memory = MemoryFile(Path(os.environ["FAKE_MEMORY"]))
        super().__init__(load_light_parts, available_bytes=lambda: self._memory["available_bytes"])

    def adjust(self, wish: Adjust) -> None:
        super().adjust(wish)
        self._memory.path.with_suffix(".wished").touch()

    def generate(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        num_asked = 0

        def hold_and_ask() -> bool:
            nonlocal num_asked
            while num_asked == self._memory["hold_before_block"]:
                time.sleep(_MAX_AGE_S)
            num_asked += 1
            return should_stop()

        with AllocationLimit(lambda: self._memory.limit_bytes):
            yield from super().generate(request, plan, should_stop=hold_and_ask)


def main() -> None:
    """Serve until told to leave."""
    choice.AUTO_AREAS = AREAS  # type: ignore[assignment]
    s2v_request.AREA_BY_FREE_MEMORY = AREA_BY_AVAILABLE  # type: ignore[assignment]
    parts.load_vae = light_vae
    torch.set_num_threads(1)
    Worker(Path(sys.argv[1]), int(sys.argv[2]), {"s2v": LimitedS2vEngine, "portrait": FakeEngine}).run()


if __name__ == "__main__":
    main()

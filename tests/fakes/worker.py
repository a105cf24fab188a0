"""A worker with a quick engine that misbehaves when the prompt says so.

It runs in the real process structure and sends real video, so that faults can be tried in a fraction of a second.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from liveavatar.core.engine import OnLoadStage, not_shown
from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.events import (
    Adjust,
    Cancelled,
    Chunk,
    EngineEvent,
    Finished,
    Notice,
    PlanChanged,
    Progress,
    Telemetry,
)
from liveavatar.core.memory import GIB, MemoryItem
from liveavatar.core.note import Note
from liveavatar.core.plan import ExecutionPlan, PlanChange
from liveavatar.core.request import AUDIO_RATE, ValidatedRequest
from liveavatar.media.encoder import StreamEncoder
from liveavatar.worker.serve import Worker

CHUNK_FRAMES = 10


class FakeEngine:
    """Sends a moving grey ramp. Prompts: slow, crash, exit, raise, hang, hang-at-once, ignore-stop, notice, shrink."""

    def load(self, plan: ExecutionPlan, on_stage: OnLoadStage = not_shown) -> Telemetry:
        on_stage("reading")
        mode = os.environ.get("FAKE_LOAD", "")
        if mode == "raise":
            raise EngineFailed(
                Diagnosis(code="no_weights", title="No weights.", cause="Test.", remedy="None.")
            )
        if mode == "hang":
            signal.pause()
        if mode == "exit":
            os._exit(7)
        return _telemetry(caches=0, block_s=None)

    def generate(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        num_frames = math.ceil(round(request.audio_seconds * 25, 3))
        encoder = StreamEncoder(plan.width, plan.height)
        if "hang-at-once" in request.prompt:
            signal.pause()
        if "notice" in request.prompt:
            yield Notice(job_id=request.job_id, note=Note(code="told", text="A sentence for the operator."))
        for first in range(0, num_frames, CHUNK_FRAMES):
            if should_stop() and "ignore-stop" not in request.prompt:
                yield Chunk(job_id=request.job_id, data=encoder.finish(), frames_done=first)
                yield Cancelled(job_id=request.job_id)
                return
            if first >= 5 * CHUNK_FRAMES:
                self._misbehave(request.prompt)
            done = min(first + CHUNK_FRAMES, num_frames)
            frames = [
                np.full((plan.height, plan.width, 3), index % 250, np.uint8) for index in range(first, done)
            ]
            data = encoder.encode(frames, np.zeros((done - first) * AUDIO_RATE // 25, np.int16))
            yield Progress(job_id=request.job_id, stage="generating", frames_done=done, num_frames=num_frames)
            yield Chunk(job_id=request.job_id, data=data, frames_done=done)
            yield _telemetry(caches=9 * GIB, block_s=0.25)
            if "shrink" in request.prompt and first == 0:
                yield _shrink(request, plan)
            if "slow" in request.prompt:
                time.sleep(0.1)
        yield Chunk(job_id=request.job_id, data=encoder.finish(), frames_done=num_frames)
        yield Finished(job_id=request.job_id, num_frames=num_frames)

    def adjust(self, wish: Adjust) -> None:
        """Nothing can be changed on the way; the app refuses earlier."""

    def measure(self) -> Telemetry:
        return _telemetry(caches=0, block_s=None)

    def close(self) -> None:
        pass

    def _misbehave(self, prompt: str) -> None:
        if "crash" in prompt:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "exit" in prompt:
            os._exit(3)
        if "raise" in prompt:
            raise RuntimeError("the fake engine was told to raise")
        if prompt == "hang" or "ignore-stop" in prompt:
            signal.pause()


def _shrink(request: ValidatedRequest, plan: ExecutionPlan) -> PlanChanged:
    """Go on with smaller pictures, as if memory were short."""
    return PlanChanged(
        job_id=request.job_id,
        change=PlanChange(
            first_frame=CHUNK_FRAMES,
            cause="memory_taken",
            before=plan.size,
            after="128*128",
            reason="It was told to.",
        ),
        plan=dataclasses.replace(plan, width=128, height=128),
    )


def _telemetry(*, caches: int, block_s: float | None) -> Telemetry:
    """Say that the engine lies on the first card of a replayed machine."""
    sizes = {"weights": 30 * GIB, "key-value caches": caches}
    return Telemetry(
        gpu="GPU-0",
        allocated_bytes=30 * GIB + caches,
        reserved_bytes=50 * GIB,
        peak_bytes=45 * GIB,
        items=tuple(
            MemoryItem(name=name, num_bytes=size, basis="measured") for name, size in sizes.items() if size
        ),
        block_s=block_s,
    )


if __name__ == "__main__":
    Worker(Path(sys.argv[1]), int(sys.argv[2]), {"portrait": FakeEngine, "s2v": FakeEngine}).run()

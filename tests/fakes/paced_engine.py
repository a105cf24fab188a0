"""An engine process with a chosen speed, for tests of the page: `python -m tests.fakes.paced_engine RUN_DIR PID`.

It shows the portrait with a moving bar. The prompt steers it: "pace=40" makes 40 frames a second (default 100),
"[no face]" fails like a portrait without a face, unless clicks or the whole picture were given.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from liveavatar.core.engine import OnLoadStage, not_shown
from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.events import (
    Adjust,
    Cancelled,
    Chunk,
    EngineEvent,
    Finished,
    Notice,
    Progress,
    Telemetry,
)
from liveavatar.core.memory import MemoryItem
from liveavatar.core.note import Note
from liveavatar.core.plan import FPS, ExecutionPlan
from liveavatar.core.request import ValidatedRequest
from liveavatar.media.encoder import StreamEncoder
from liveavatar.worker.serve import Worker

_BLOCK = 6
_USED_SHARE = 0.8
_SAMPLES_PER_FRAME = 48_000 // FPS


class PacedEngine:
    """Makes frames at the pace that the prompt names."""

    def load(self, plan: ExecutionPlan, on_stage: OnLoadStage = not_shown) -> None:
        """Nothing to load."""

    def adjust(self, wish: Adjust) -> None:
        """Nothing can be changed on the way; the app refuses earlier."""

    def measure(self) -> None:
        """Nothing to measure."""

    def close(self) -> None:
        """Nothing to release."""

    def generate(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        """Yield the video of the portrait with a bar that crosses it."""
        job_id = request.job_id
        voice, _ = soundfile.read(request.audio_path, dtype="int16")
        num_frames = -(-len(voice) // _SAMPLES_PER_FRAME)
        yield Progress(job_id=job_id, stage="preparing", frames_done=0, num_frames=num_frames)
        if "[no face]" in request.prompt and not (request.face_clicks or request.whole_picture):
            raise EngineFailed(
                Diagnosis(
                    code="no_face",
                    title="No face was found in the portrait.",
                    cause="It is turned away, covered, very small, or drawn in an unusual way.",
                    remedy="Show where the face is, or let the whole picture move.",
                )
            )
        if "[note]" in request.prompt:
            text = "2 faces were found; the largest one speaks."
            note = Note(code="several_faces", text=text, values={"count": 2})
            yield Notice(job_id=job_id, note=note)
        match = re.search(r"pace=(\d+)", request.prompt)
        pace = float(match[1]) if match else 100.0
        still = _fit(request.image_path, plan)
        encoder = StreamEncoder(plan.width, plan.height)
        done = 0
        while done < num_frames:
            began = time.monotonic()
            if should_stop():
                yield Chunk(job_id=job_id, data=encoder.finish(), frames_done=done)
                yield Cancelled(job_id=job_id)
                return
            frames = [
                _with_bar(still, index / num_frames) for index in range(done, min(done + _BLOCK, num_frames))
            ]
            samples = voice[done * _SAMPLES_PER_FRAME : (done + len(frames)) * _SAMPLES_PER_FRAME]
            done += len(frames)
            # Block by block: what a busy machine delayed is not made up for, so the pace is never exceeded.
            time.sleep(max(0.0, began + len(frames) / pace - time.monotonic()))
            data = encoder.encode(frames, samples)
            yield Progress(job_id=job_id, stage="generating", frames_done=done, num_frames=num_frames)
            if data:
                yield Chunk(job_id=job_id, data=data, frames_done=done)
            yield from _telemetry(plan, block_s=_BLOCK / pace)
        yield Chunk(job_id=job_id, data=encoder.finish(), frames_done=done)
        yield Finished(job_id=job_id, num_frames=num_frames)


def _telemetry(plan: ExecutionPlan, *, block_s: float) -> Iterator[Telemetry]:
    """Say, for each rank of the forecast, that it lies on the card of its number and uses part of what it may."""
    for budget in plan.budgets:
        items = tuple(
            MemoryItem(name=item.name, num_bytes=int(_USED_SHARE * item.num_bytes), basis="measured")
            for item in budget.items
        )
        total = sum(item.num_bytes for item in items)
        yield Telemetry(
            rank=budget.rank,
            gpu=f"GPU-{budget.rank}",
            allocated_bytes=total,
            reserved_bytes=total,
            peak_bytes=total,
            items=items,
            block_s=block_s,
        )


def _fit(path: str, plan: ExecutionPlan) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        fitted = ImageOps.fit(image.convert("RGB"), (plan.width, plan.height), centering=(0.5, 0.3))
    return np.asarray(fitted)


def _with_bar(still: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    frame = still.copy()
    frame[-12:, : max(1, int(share * frame.shape[1]))] = (99, 102, 241)
    return frame


if __name__ == "__main__":
    Worker(Path(sys.argv[1]), int(sys.argv[2]), {"portrait": PacedEngine}).run()

"""Everything that travels between the app and the engine processes.

Commands go to the worker, events come from it. A job ends with exactly one of Finished, Failed or Cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from liveavatar.core.errors import Diagnosis
from liveavatar.core.memory import MemoryItem
from liveavatar.core.note import Note
from liveavatar.core.plan import ExecutionPlan, PlanChange
from liveavatar.core.request import ValidatedRequest

# What an engine that is being loaded is at: reading its files, or making its first pictures, compiled or not.
LoadStage = Literal["reading", "compiling", "warming"]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Command: load the engine that the plan names. Answered by Ready or Failed (with an empty job id)."""

    plan: ExecutionPlan


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Command: make one video. Answered by a stream of engine events."""

    request: ValidatedRequest
    plan: ExecutionPlan


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Command: end the running job at the next chunk boundary. Ignored if that job is not running."""

    job_id: str


@dataclass(frozen=True, kw_only=True)
class Adjust:
    """Command: make the rest of a running video otherwise. Steps change at the next block, the size at the next clip.

    None leaves a thing as it is. Answered by PlanChanged, or by a Notice that says why not. Ignored if that job is
    not running.
    """

    job_id: str
    num_steps: int | None = None
    size: str | None = None  # "384*256"


@dataclass(frozen=True, kw_only=True)
class Shutdown:
    """Command: leave in good order."""


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The worker process is up and listens; nothing is loaded yet."""

    pid: int


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The engine is loaded and warm."""

    engine: str
    load_s: float


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The worker's threads are alive. Says nothing of progress: that is what Progress is for."""

    rss_bytes: int
    loading: LoadStage | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The job is at work. `frames_done` counts frames that were handed to the encoder."""

    job_id: str
    stage: str  # "preparing" | "generating"
    frames_done: int
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """The next bytes of the job's fragmented MP4; the first chunk begins with the init segment."""

    job_id: str
    data: bytes
    frames_done: int


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something to tell the operator of a video."""

    job_id: str
    note: Note


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """What one rank measured of itself: after loading, with every block it is done with, and after every video.

    Bytes are those of PyTorch's allocator on the rank's card, 0 on the processor. `peak_bytes` is the most that was
    allocated since the report before, so that no peak is missed between two. `items` stay on the card, `momentary` ones
    take turns there: of those, the most that was needed so far. Both are named like those of the forecast, as far as
    the rank knows them.
    """

    rank: int = 0
    gpu: str = ""  # UUID of the card as its driver writes it; empty on the processor
    allocated_bytes: int = 0
    reserved_bytes: int = 0
    peak_bytes: int = 0
    items: tuple[MemoryItem, ...] = ()
    momentary: tuple[MemoryItem, ...] = ()
    block_s: float | None = None  # seconds since the block before; None between videos


@dataclass(frozen=True, kw_only=True)
class PlanChanged:
    """The rest of the video is made by another plan. The file keeps its size: other pictures are scaled to it."""

    job_id: str
    change: PlanChange
    plan: ExecutionPlan  # what is carried out from now on


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Terminal: the video is whole."""

    job_id: str
    num_frames: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """Terminal: the job ended early. An empty job id means that the engine itself failed to load."""

    job_id: str
    diagnosis: Diagnosis


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """Terminal: the operator stopped the job."""

    job_id: str


Command = Load | Generate | Stop | Adjust | Shutdown
EngineEvent = Progress | Chunk | Notice | PlanChanged | Telemetry | Finished | Failed | Cancelled
WorkerEvent = Hello | Ready | Heartbeat | EngineEvent
TERMINAL_EVENTS = (Finished, Failed, Cancelled)

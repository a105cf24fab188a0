"""A job and its life: queued -> planning -> loading -> running -> finished | failed | cancelled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from liveavatar.core.errors import Diagnosis
from liveavatar.core.note import Note
from liveavatar.core.plan import PlanChange


class JobState(StrEnum):
    """Where a job stands. The last three are terminal."""

    QUEUED = "queued"
    PLANNING = "planning"
    LOADING = "loading"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Return whether nothing more will happen to the job."""
        return self in TERMINAL_STATES


TERMINAL_STATES = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELLED})
ACTIVE_STATES = frozenset({JobState.PLANNING, JobState.LOADING, JobState.RUNNING})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the job store. Times are seconds since the epoch."""

    id: str
    owner: str
    state: JobState
    created_at: float
    started_at: float | None
    ended_at: float | None
    prompt: str
    engine: str
    size_asked: str
    size_made: str | None  # None until planned
    audio_seconds: float
    num_frames: int  # of the whole video
    frames_done: int
    fps: float  # frames made per second, over the job so far
    stop_requested: bool
    notes: tuple[Note, ...]  # one per automatic choice
    changes: tuple[PlanChange, ...]  # the receipt: what was made otherwise than planned, in order
    diagnosis: Diagnosis | None  # set when failed
    has_video: bool  # video.mp4 exists and plays, whole or partial
    request_json: str  # the ValidatedRequest

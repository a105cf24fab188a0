"""The s2v engine on the ranks of a plan, with the tiny checkpoint: from files to a video file."""

from __future__ import annotations

from dataclasses import dataclass, field
from unittest import mock

from liveavatar.config import process_rank
from liveavatar.core.events import Adjust, Chunk, EngineEvent, Notice, PlanChanged
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import ValidatedRequest
from liveavatar.engines.s2v import parts
from liveavatar.engines.s2v.engine import S2vEngine
from liveavatar.planning import choice, s2v_request
from tests.fakes.limited_s2v_worker import AREA_BY_AVAILABLE, AREAS, MIB, light_vae

PLENTY = 1000 * MIB
Video = tuple[
    bytes, list[str]
]  # the file, and the events: names of classes, sentences of changes and notices


@dataclass(frozen=True, kw_only=True)
class VideoJob:
    """A video and what happens to it."""

    request: ValidatedRequest
    plan: ExecutionPlan
    stop_after: int | None = None  # blocks
    wishes: dict[int, Adjust] = field(default_factory=dict)  # before these blocks
    available_bytes: dict[int, int] = field(default_factory=dict)  # by rank, where it is not plenty


def make_videos(plan: ExecutionPlan, jobs: list[VideoJob]) -> list[Video]:
    """Load as this process's rank and make every job's video."""
    with (
        mock.patch.object(choice, "AUTO_AREAS", AREAS),
        mock.patch.object(parts, "load_vae", light_vae),
        mock.patch.object(s2v_request, "AREA_BY_FREE_MEMORY", AREA_BY_AVAILABLE),
    ):
        available = dict[int, int]()
        engine = S2vEngine(available_bytes=lambda: available.get(process_rank(), PLENTY))
        engine.load(plan)
        videos = []
        for job in jobs:
            available = job.available_bytes
            videos.append(_make(engine, job))
        engine.close()
        return videos


def _make(engine: S2vEngine, job: VideoJob) -> Video:
    next_block = 0
    wishes = dict(job.wishes)
    if 0 in wishes:
        engine.adjust(wishes.pop(0))  # on every rank, as the app does it

    def should_stop() -> bool:
        """Asked before every block where blocks begin."""
        nonlocal next_block
        if next_block in wishes:
            engine.adjust(wishes.pop(next_block))
        next_block += 1
        return job.stop_after is not None and next_block > job.stop_after

    events = list(engine.generate(job.request, job.plan, should_stop=should_stop))
    data = b"".join(event.data for event in events if isinstance(event, Chunk))
    return data, [_name(event) for event in events]


def _name(event: EngineEvent) -> str:
    if isinstance(event, PlanChanged):
        return event.change.note().text
    return event.note.text if isinstance(event, Notice) else type(event).__name__

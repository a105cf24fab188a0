"""The s2v engine on the ranks of a plan, with the tiny checkpoint: from files to a video file."""

from __future__ import annotations

from typing import Any

from liveavatar.core.events import Chunk
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import ValidatedRequest
from liveavatar.engines.s2v.engine import S2vEngine


def make_videos(plan: ExecutionPlan, jobs: list[tuple[ValidatedRequest, ExecutionPlan, int]]) -> list[Any]:
    """Load as this process's rank and make every job's video, stopping it after so many blocks (0: never).

    Returns (bytes of the file, class names of the events) for each.
    """
    engine = S2vEngine()
    engine.load(plan)
    videos = []
    for request, job_plan, stop_after in jobs:
        num_asked = 0

        def should_stop(stop_after: int = stop_after) -> bool:
            nonlocal num_asked
            num_asked += 1
            return bool(stop_after) and num_asked > stop_after

        events = list(engine.generate(request, job_plan, should_stop=should_stop))
        data = b"".join(event.data for event in events if isinstance(event, Chunk))
        videos.append((data, [type(event).__name__ for event in events]))
    engine.close()
    return videos

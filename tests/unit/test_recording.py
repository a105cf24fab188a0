"""What is written down of a job while it is made."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from liveavatar.core.events import Progress
from liveavatar.service import recording
from liveavatar.service.job_store import JobStore


class Written:
    """Takes what a store is given."""

    def __init__(self) -> None:
        self.progress: list[dict[str, Any]] = []

    def set_progress(self, job_id: str, **fields: Any) -> None:
        self.progress.append(fields)


def test_the_speed_is_that_of_the_pictures_made_since_the_last_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    written = Written()
    taken = recording.Recording("a", cast(JobStore, written))

    def progress(stage: str, frames_done: int) -> None:
        taken.take(Progress(job_id="a", stage=stage, frames_done=frames_done, num_frames=500))

    progress("preparing", 0)
    now += 10
    progress("generating", 120)
    now += 60  # loaded anew
    progress("preparing", 108)
    now += 10
    progress("generating", 168)
    taken.flush()
    assert [(each["frames_done"], each["fps"]) for each in written.progress] == [
        (120, 12.0),
        (108, 0.0),
        (168, 6.0),
    ]


def test_the_last_picture_before_a_stall_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    written = Written()
    taken = recording.Recording("a", cast(JobStore, written))
    for frames_done in (12, 24, 36):
        now += 0.15
        taken.take(Progress(job_id="a", stage="generating", frames_done=frames_done, num_frames=500))
    assert written.progress[-1]["frames_done"] == 24
    now += 0.15
    assert taken.keep_up()
    assert written.progress[-1]["frames_done"] == 36

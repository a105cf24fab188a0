"""Retention: what goes when it is too old or too much."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest

from liveavatar.config import AppConfig
from liveavatar.core.job import JobState
from liveavatar.core.request import AUDIO_RATE
from liveavatar.media.encoder import StreamEncoder
from liveavatar.service.job_store import JobStore
from liveavatar.service.outputs import Outputs


def make_job(store: JobStore, outputs: Outputs, job_id: str, *, num_bytes: int, ended: bool = True) -> None:
    store.add(
        job_id=job_id, owner="", prompt="", engine="portrait", size_asked="auto", audio_seconds=1, num_frames=25,
        notes=(), request_json="{}",
    )  # fmt: skip
    outputs.folder(job_id).mkdir()
    outputs.video(job_id).write_bytes(b"\0" * num_bytes)
    outputs.media_log(job_id).write_bytes(b"\0" * 10)
    if ended:
        store.end(job_id, JobState.FINISHED, has_video=True)


def test_the_oldest_go_first_and_live_jobs_stay(tmp_path: Path) -> None:
    config = AppConfig(data_dir=tmp_path, keep_bytes=2500)
    store, outputs = JobStore(tmp_path / "jobs.sqlite3"), Outputs(config)
    for name in ("old", "middle", "new"):
        make_job(store, outputs, name, num_bytes=1000)
    make_job(store, outputs, "waiting", num_bytes=5000, ended=False)
    outputs.sweep(store)
    assert [job.id for job in store.jobs()] == ["waiting", "new", "middle"]
    assert not outputs.folder("old").exists()
    assert outputs.media_log("new").exists(), "a player may still follow it"
    store.close()


def test_age_counts_and_orphans_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = AppConfig(data_dir=tmp_path, keep_days=1)
    store, outputs = JobStore(tmp_path / "jobs.sqlite3"), Outputs(config)
    make_job(store, outputs, "a", num_bytes=10)
    orphan = outputs.jobs_dir / "orphan"
    orphan.mkdir()
    os.utime(orphan, (0, 0))
    outputs.sweep(store)
    assert not orphan.exists()
    assert outputs.folder("a").exists()
    two_hours, two_days = time.time() + 7200, time.time() + 2 * 86_400
    monkeypatch.setattr(time, "time", lambda: two_hours)
    outputs.sweep(store)
    assert not outputs.media_log("a").exists(), "the log goes, the video stays"
    assert outputs.video("a").exists()
    monkeypatch.setattr(time, "time", lambda: two_days)
    outputs.sweep(store)
    assert store.jobs() == []
    store.close()


def test_room_is_measured(tmp_path: Path) -> None:
    config = AppConfig(data_dir=tmp_path)
    assert Outputs(config).has_room()
    assert not Outputs(dataclasses.replace(config, min_free_bytes=1 << 60)).has_room()


def test_what_is_no_video_is_told_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two encoders that write into one log leave what nothing can play."""
    outputs = Outputs(AppConfig(data_dir=tmp_path))
    outputs.folder("a").mkdir()
    picture = np.zeros((64, 64, 3), np.uint8)
    with outputs.media_log("a").open("wb") as log_file:
        for _ in range(2):
            encoder = StreamEncoder(64, 64)
            log_file.write(encoder.encode([picture] * 50, np.zeros(2 * AUDIO_RATE, np.int16)))
            log_file.write(encoder.finish())
    assert not outputs.seal("a")
    assert not outputs.video("a").exists()
    assert "not a video" in caplog.text

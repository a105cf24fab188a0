from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from liveavatar.core.errors import Diagnosis
from liveavatar.core.job import Job, JobState
from liveavatar.core.note import Note
from liveavatar.core.plan import PlanChange
from liveavatar.service.job_store import JobStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs.sqlite3")
    yield store
    store.close()


def add(store: JobStore, job_id: str, owner: str = "") -> Job:
    return store.add(
        job_id=job_id, owner=owner, prompt="p", engine="portrait", size_asked="auto", audio_seconds=1.0,
        num_frames=25, notes=[Note(code="a", text="a note")], request_json="{}",
    )  # fmt: skip


def test_jobs_are_claimed_in_order(store: JobStore) -> None:
    for name in "abc":
        add(store, name)
    claimed = [store.claim_next() for _ in range(4)]
    assert [job.id if job else None for job in claimed] == ["a", "b", "c", None]
    assert all(job is None or job.state is JobState.PLANNING for job in claimed)


def test_no_job_is_claimed_twice(store: JobStore) -> None:
    for number in range(100):
        add(store, str(number))
    with ThreadPoolExecutor(8) as pool:
        claimed = [job.id for job in pool.map(lambda _: store.claim_next(), range(120)) if job]
    assert sorted(claimed, key=int) == [str(number) for number in range(100)]


def test_states_change_only_from_where_they_are_expected(store: JobStore) -> None:
    add(store, "a")
    assert not store.advance("a", expected=JobState.RUNNING, new=JobState.FINISHED)
    assert store.get("a").state is JobState.QUEUED


def test_a_job_ends_once(store: JobStore) -> None:
    add(store, "a")
    diagnosis = Diagnosis(code="c", title="t", cause="u", remedy="r", facts={"n": 2})
    assert store.end("a", JobState.FAILED, diagnosis=diagnosis)
    assert not store.end("a", JobState.FINISHED)
    job = store.get("a")
    assert job.state is JobState.FAILED
    assert job.diagnosis == diagnosis
    assert job.ended_at is not None
    with pytest.raises(ValueError, match="does not end"):
        store.end("a", JobState.RUNNING)


def test_stop_cancels_what_waits_and_marks_what_runs(store: JobStore) -> None:
    add(store, "a")
    add(store, "b")
    store.claim_next()
    store.request_stop("a")
    store.request_stop("b")
    assert store.get("a").state is JobState.PLANNING
    assert store.stop_requested("a")
    assert store.get("b").state is JobState.CANCELLED
    assert store.get("b").ended_at is not None
    assert store.stop_requested("deleted long ago")


def test_owners_notes_and_deletion(store: JobStore) -> None:
    add(store, "a", owner="x")
    add(store, "b", owner="y")
    assert [job.id for job in store.jobs()] == ["b", "a"]
    assert [job.id for job in store.jobs(owner="x")] == ["a"]
    note = Note(code="b", text="says “hi”", values={"n": 2})
    store.add_note("a", note)
    store.add_note("a", note)
    assert store.get("a").notes == (Note(code="a", text="a note"), note)
    store.delete("a")
    with pytest.raises(KeyError):
        store.get("a")
    with pytest.raises(KeyError):
        store.delete("a")


def test_everything_survives_reopening(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.sqlite3")
    add(store, "a")
    store.claim_next()
    store.close()
    store = JobStore(tmp_path / "jobs.sqlite3")
    assert [job.id for job in store.unfinished()] == ["a"]
    store.close()


def test_receipts_are_kept_in_order_and_old_stores_learn_them(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = JobStore(path)
    add(store, "old")
    store.close()
    with closing(sqlite3.connect(path)) as db:  # as the version before left it
        db.execute("ALTER TABLE jobs DROP COLUMN changes")
        db.execute("UPDATE jobs SET notes='[\"a sentence\"]'")
        db.execute("PRAGMA user_version=1")
        db.commit()
    store = JobStore(path)
    changes = [
        PlanChange(first_frame=48 * n, cause="memory_full", before="a", after=f"b{n}", reason="Full.")
        for n in (1, 2)
    ]
    for change in changes:
        store.add_change("old", change)
    store.set_size_made("old", "384*256")
    store.close()
    job = JobStore(path).get("old")
    assert job.changes == tuple(changes)
    assert job.notes == (Note(code="", text="a sentence"),)
    assert job.size_made == "384*256"
    assert job.changes[0].note().text == "From 1.9 s on: b1 instead of a. Full."

"""Jobs in one sqlite table. Every change of state is a compare-and-set, so two writers cannot disagree."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from liveavatar.core import wire
from liveavatar.core.errors import Diagnosis
from liveavatar.core.job import ACTIVE_STATES, TERMINAL_STATES, Job, JobState
from liveavatar.core.note import Note
from liveavatar.core.plan import PlanChange

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    prompt TEXT NOT NULL,
    engine TEXT NOT NULL,
    size_asked TEXT NOT NULL,
    size_made TEXT,
    audio_seconds REAL NOT NULL,
    num_frames INTEGER NOT NULL,
    frames_done INTEGER NOT NULL DEFAULT 0,
    fps REAL NOT NULL DEFAULT 0,
    stop_requested INTEGER NOT NULL DEFAULT 0,
    notes TEXT NOT NULL DEFAULT '[]',
    diagnosis TEXT,
    has_video INTEGER NOT NULL DEFAULT 0,
    request_json TEXT NOT NULL,
    changes TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, sequence);
"""
_SCHEMA_VERSION = 3  # 2: changes; 3: notes with codes


class JobStore:
    """All jobs, oldest first in the queue. Safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create the store. Raises sqlite3.DatabaseError when the file is not ours."""
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "PRAGMA synchronous=FULL"
        )  # a handful of writes a job: surviving a power cut is cheap
        self._db.executescript(_SCHEMA)
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 1:
            self._db.execute("ALTER TABLE jobs ADD COLUMN changes TEXT NOT NULL DEFAULT '[]'")
        if version in (1, 2):  # plain sentences, which stay English
            note = "json_object('code', '', 'text', value)"
            self._db.execute(f"UPDATE jobs SET notes=(SELECT json_group_array({note}) FROM json_each(notes))")
        self._db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    def close(self) -> None:
        """Close the file. The store is not used again."""
        with self._lock:
            self._db.close()

    def add(
        self,
        *,
        job_id: str,
        owner: str,
        prompt: str,
        engine: str,
        size_asked: str,
        audio_seconds: float,
        num_frames: int,
        notes: Iterable[Note],
        request_json: str,
    ) -> Job:
        """Put a new job at the end of the queue."""
        self._execute(
            "INSERT INTO jobs (id, owner, state, created_at, prompt, engine, size_asked, audio_seconds, num_frames,"
            " notes, request_json) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            job_id, owner, JobState.QUEUED, time.time(), prompt, engine, size_asked, audio_seconds, num_frames,
            json.dumps([dataclasses.asdict(note) for note in notes]), request_json,
        )  # fmt: skip
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        """Return one job. Raises KeyError when there is none of that id."""
        rows = self._query("SELECT * FROM jobs WHERE id=?", job_id)
        if not rows:
            raise KeyError(job_id)
        return _job(rows[0])

    def jobs(self, *, owner: str | None = None) -> list[Job]:
        """Return the jobs of one owner, or of all, newest first."""
        return [
            _job(row)
            for row in self._query(
                "SELECT * FROM jobs WHERE ? IS NULL OR owner=? ORDER BY sequence DESC", owner, owner
            )
        ]

    def num_queued(self) -> int:
        """Return how many jobs wait."""
        return int(self._query("SELECT COUNT(*) FROM jobs WHERE state=?", JobState.QUEUED)[0][0])

    def num_ahead(self, job_id: str) -> int:
        """Return how many queued or active jobs come before this queued one."""
        live = [JobState.QUEUED, *sorted(ACTIVE_STATES)]
        marks = ",".join("?" * len(live))
        return int(
            self._query(
                f"SELECT COUNT(*) FROM jobs WHERE state IN ({marks})"
                " AND sequence < (SELECT sequence FROM jobs WHERE id=?)",
                *live, job_id,
            )[0][0]
        )  # fmt: skip

    def claim_next(self) -> Job | None:
        """Move the oldest queued job to PLANNING and return it, or None when nothing waits."""
        rows = self._query(
            "UPDATE jobs SET state=?, started_at=? WHERE sequence="
            "(SELECT MIN(sequence) FROM jobs WHERE state=?) RETURNING *",
            JobState.PLANNING, time.time(), JobState.QUEUED,
        )  # fmt: skip
        return _job(rows[0]) if rows else None

    def advance(self, job_id: str, *, expected: JobState, new: JobState) -> bool:
        """Change the state if it is still `expected`; return whether it was."""
        return bool(
            self._query("UPDATE jobs SET state=? WHERE id=? AND state=? RETURNING id", new, job_id, expected)
        )

    def end(
        self, job_id: str, state: JobState, *, diagnosis: Diagnosis | None = None, has_video: bool = False
    ) -> bool:
        """Give the job its one terminal state; return False when it already had one."""
        if state not in TERMINAL_STATES:
            raise ValueError(f"{state} does not end a job")
        terminal = sorted(TERMINAL_STATES)
        return bool(
            self._query(
                "UPDATE jobs SET state=?, ended_at=?, diagnosis=?, has_video=? WHERE id=?"
                f" AND state NOT IN ({','.join('?' * len(terminal))}) RETURNING id",
                state, time.time(), wire.to_json(diagnosis) if diagnosis else None, has_video, job_id, *terminal,
            )
        )  # fmt: skip

    def set_plan(self, job_id: str, *, size_made: str, num_frames: int) -> None:
        """Record what will be made."""
        self._execute("UPDATE jobs SET size_made=?, num_frames=? WHERE id=?", size_made, num_frames, job_id)

    def set_progress(self, job_id: str, *, frames_done: int, fps: float) -> None:
        """Record how far the job is."""
        self._execute("UPDATE jobs SET frames_done=?, fps=? WHERE id=?", frames_done, fps, job_id)

    def add_note(self, job_id: str, note: Note) -> None:
        """Append one sentence for the operator, once."""
        if note not in self.get(job_id).notes:
            self._execute(
                "UPDATE jobs SET notes=json_insert(notes, '$[#]', json(?)) WHERE id=?",
                wire.to_json(note), job_id,
            )  # fmt: skip

    def add_change(self, job_id: str, change: PlanChange) -> None:
        """Append a line to the job's receipt."""
        self._execute(
            "UPDATE jobs SET changes=json_insert(changes, '$[#]', json(?)) WHERE id=?",
            wire.to_json(change), job_id,
        )  # fmt: skip

    def set_size_made(self, job_id: str, size_made: str) -> None:
        """Record the size of the file, where it is not the planned one."""
        self._execute("UPDATE jobs SET size_made=? WHERE id=?", size_made, job_id)

    def request_stop(self, job_id: str) -> None:
        """Ask for the job's end: a queued one is cancelled here, an active one by whoever runs it."""
        if not self.advance(job_id, expected=JobState.QUEUED, new=JobState.CANCELLED):
            self._execute("UPDATE jobs SET stop_requested=1 WHERE id=?", job_id)
        else:
            self._execute("UPDATE jobs SET ended_at=? WHERE id=?", time.time(), job_id)

    def stop_requested(self, job_id: str) -> bool:
        """Return whether somebody asked for the job's end. A deleted job counts as stopped."""
        rows = self._query("SELECT stop_requested FROM jobs WHERE id=?", job_id)
        return not rows or bool(rows[0][0])

    def unfinished(self) -> list[Job]:
        """Return the jobs that were being made when the last process ended."""
        states = sorted(ACTIVE_STATES)
        return [
            _job(row)
            for row in self._query(f"SELECT * FROM jobs WHERE state IN ({','.join('?' * 3)})", *states)
        ]

    def delete(self, job_id: str) -> None:
        """Forget a job. KeyError when there is none of that id."""
        if not self._query("DELETE FROM jobs WHERE id=? RETURNING id", job_id):
            raise KeyError(job_id)

    def _execute(self, sql: str, *values: object) -> None:
        self._query(sql, *values)

    def _query(self, sql: str, *values: object) -> list[sqlite3.Row]:
        with self._lock, closing(self._db.execute(sql, values)) as cursor:
            return cursor.fetchall()


def _job(row: sqlite3.Row) -> Job:
    fields = {name: row[name] for name in row.keys() if name != "sequence"}  # noqa: SIM118  (a Row iterates values)
    fields["state"] = JobState(fields["state"])
    fields["notes"] = tuple(wire.from_json(Note, note) for note in json.loads(fields["notes"]))
    fields["changes"] = tuple(wire.from_json(PlanChange, change) for change in json.loads(fields["changes"]))
    fields["diagnosis"] = (
        wire.from_json(Diagnosis, json.loads(fields["diagnosis"])) if fields["diagnosis"] else None
    )
    fields["stop_requested"] = bool(fields["stop_requested"])
    fields["has_video"] = bool(fields["has_video"])
    return Job(**fields)

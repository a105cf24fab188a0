"""Writes down what the engine sends of one job: video into the media log, progress and notes into the store."""

from __future__ import annotations

import time

from liveavatar.core.events import Chunk, EngineEvent, Notice, PlanChanged, Progress
from liveavatar.service.job_store import JobStore
from liveavatar.service.media_log import MediaLog

_PROGRESS_S = 0.2  # each record is a synchronous write; the page asks once a second


class Recording:
    """One job's record. After `write_error` is set, no more video is taken.

    `media_log` is opened before there is video.
    """

    def __init__(self, job_id: str, store: JobStore) -> None:
        self._job_id = job_id
        self._store = store
        self.media_log: MediaLog | None = None
        self._started = self._recorded_at = time.monotonic()
        self._first_frame = 0
        self._unrecorded: Progress | None = None
        self.write_error: OSError | None = None

    def take(self, event: EngineEvent) -> None:
        """Record one event."""
        if isinstance(event, Chunk) and self.write_error is None:
            assert self.media_log is not None, "it was opened"
            try:
                self.media_log.append(event.data)
            except OSError as error:
                self.write_error = error
        elif isinstance(event, Notice):
            self._store.add_note(self._job_id, event.note)
        elif isinstance(event, PlanChanged):
            self._store.add_change(self._job_id, event.change)
            self._store.add_note(self._job_id, event.change.note())
            if event.change.first_frame == 0:  # nothing was encoded yet: the file has the new size
                self._store.set_size_made(self._job_id, event.plan.size)
        elif isinstance(event, Progress):
            if event.stage == "preparing":
                # The speed shown is that of making pictures, after a new start those that were missing.
                self._started, self._first_frame = time.monotonic(), event.frames_done
            self._unrecorded = event
            self.keep_up()

    def keep_up(self) -> bool:
        """Record progress that has waited for a while; return whether more video can be taken.

        To be called also while nothing comes: where the engine stalls, the last picture counts, too.
        """
        if time.monotonic() - self._recorded_at >= _PROGRESS_S:
            self.flush()
        return self.write_error is None

    def flush(self) -> None:
        """Record the latest progress."""
        if self._unrecorded is not None:
            self._recorded_at = time.monotonic()
            num_made = self._unrecorded.frames_done - self._first_frame
            fps = num_made / max(self._recorded_at - self._started, 1e-3)
            self._store.set_progress(
                self._job_id, frames_done=self._unrecorded.frames_done, fps=round(fps, 1)
            )
            self._unrecorded = None

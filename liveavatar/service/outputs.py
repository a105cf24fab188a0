"""The files of jobs: where they lie, and which ones go when time or disk space runs out."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path

import av

from liveavatar.config import AppConfig
from liveavatar.core.job import Job
from liveavatar.media.mux import complete_length, remux_faststart
from liveavatar.service.job_store import JobStore

log = logging.getLogger(__name__)

_LOG_KEPT_S = 600.0  # a player that was cut off may come back for the rest of the log this long
_ORPHAN_S = 3600.0


class Outputs:
    """The folder of each job below the data directory."""

    def __init__(self, config: AppConfig) -> None:
        self._config = config
        self.jobs_dir = config.data_dir / "jobs"
        self.jobs_dir.mkdir(parents=True, exist_ok=True)

    def folder(self, job_id: str) -> Path:
        """Return the folder of a job, which may not exist."""
        return self.jobs_dir / job_id

    def media_log(self, job_id: str) -> Path:
        """Return the path of the growing video."""
        return self.folder(job_id) / "media.mp4"

    def video(self, job_id: str) -> Path:
        """Return the path of the finished, or kept partial, video."""
        return self.folder(job_id) / "video.mp4"

    def poster(self, job_id: str) -> Path:
        """Return the path of the small picture for lists."""
        return self.folder(job_id) / "poster.jpg"

    def seal(self, job_id: str) -> bool:
        """Make the playable video from whatever was made; return whether there is one.

        When the disk has no room for the re-packaged copy, the log itself becomes the video: it plays too.
        """
        source = self.media_log(job_id)
        if not source.is_file():
            return False
        length = complete_length(source)
        if not length:
            return False
        if length < source.stat().st_size:
            os.truncate(source, length)
        try:
            return remux_faststart(source, self.video(job_id))
        except OSError as error:
            log.warning("job %s: the log serves as its video: %s", job_id, error)
            os.link(source, self.video(job_id))
            return True
        except av.FFmpegError:
            log.exception("job %s: what was made is not a video", job_id)
            return False

    def delete(self, job_id: str) -> None:
        """Remove all files of a job."""
        shutil.rmtree(self.folder(job_id), ignore_errors=True)

    def has_room(self) -> bool:
        """Return whether the disk has the space that a new job must find."""
        return shutil.disk_usage(self.jobs_dir).free >= self._config.min_free_bytes

    def sweep(self, store: JobStore) -> None:
        """Delete what is too old or too much, oldest first. Jobs that wait or run are never touched."""
        now = time.time()
        ended = [job for job in reversed(store.jobs()) if job.state.is_terminal]
        for job in ended:
            if job.has_video and now - _end_time(job) > _LOG_KEPT_S:
                self.media_log(job.id).unlink(missing_ok=True)
        sizes = {job.id: _folder_bytes(self.folder(job.id)) for job in ended}
        total = sum(sizes.values())
        for job in ended:
            is_old = now - _end_time(job) > self._config.keep_days * 86_400
            if not is_old and total <= self._config.keep_bytes:
                continue
            log.info("retention: deleting job %s (%.0f MB)", job.id, sizes[job.id] / 1e6)
            self.delete(job.id)
            store.delete(job.id)
            total -= sizes[job.id]
        self._sweep_orphans({job.id for job in store.jobs()}, now)

    def _sweep_orphans(self, known: set[str], now: float) -> None:
        """Remove folders that no job owns: left by a crash between making the folder and the row."""
        for folder in self.jobs_dir.iterdir():
            if folder.name not in known and now - folder.stat().st_mtime > _ORPHAN_S:
                shutil.rmtree(folder, ignore_errors=True)


def _end_time(job: Job) -> float:
    return job.ended_at or job.created_at


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())

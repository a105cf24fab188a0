"""Everything the page, the command line and the API can ask of the app."""

from __future__ import annotations

import dataclasses
import fcntl
import math
import secrets
from pathlib import Path

from PIL import Image

from liveavatar.config import AppConfig
from liveavatar.core import wire
from liveavatar.core.errors import Diagnosis, InputRejected, LiveAvatarError
from liveavatar.core.events import Adjust, Telemetry
from liveavatar.core.job import Job, JobState
from liveavatar.core.plan import FPS, ExecutionPlan
from liveavatar.core.request import AUTO, GenerationRequest, ValidatedRequest
from liveavatar.core.sizes import STANDARD, parse_size
from liveavatar.diagnostics.diagnose import interrupted
from liveavatar.intake.validate import check_num_steps, validate
from liveavatar.monitoring.hardware import GpuSample, HardwareMonitor, HardwareSnapshot
from liveavatar.monitoring.visible_cards import visible_cards
from liveavatar.planning.planner import plan_request
from liveavatar.planning.s2v_request import S2vSetup
from liveavatar.service.cluster import Cluster, open_cluster
from liveavatar.service.failed_layouts import FailedLayouts
from liveavatar.service.gauge import CardGauge, card_gauges
from liveavatar.service.job_store import JobStore
from liveavatar.service.learning import RunCalibration
from liveavatar.service.media_log import MediaSlice, read_slice
from liveavatar.service.model_choice import ModelChoice
from liveavatar.service.outputs import Outputs
from liveavatar.service.runner import EngineStatus, JobRunner
from liveavatar.service.s2v_setup import find_s2v
from liveavatar.service.size_forecasts import SizeForecast, SizeForecasts, predicted_fps
from liveavatar.service.supervisor import EngineSupervisor


class Studio:
    """One installation: its jobs, its engine process, its files. Safe to use from any thread."""

    def __init__(self, config: AppConfig, *, monitor: HardwareMonitor | None = None) -> None:
        """Open the data folder and recover what an earlier run left. Raises LiveAvatarError when it is in use.

        `monitor` reads another machine than this one; it belongs to the studio from now on.
        """
        self.config = config
        config.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock_file = (config.data_dir / "lock").open("w")
        self._take_lock()
        self._hardware = monitor or HardwareMonitor()
        self._cluster = self._open_cluster()
        self._outputs = Outputs(config)
        self._store = JobStore(config.data_dir / "jobs.sqlite3")
        self._recover()
        self._failed_layouts = FailedLayouts()
        self.model = ModelChoice(config)
        self._size_forecasts = SizeForecasts(self._find_s2v)
        self._learned = RunCalibration(config.data_dir / "calibration.json")
        self._supervisor = EngineSupervisor(
            config.worker_module, config.data_dir, config.deadlines, self._cluster
        )
        self._runner = JobRunner(
            self._store,
            self._outputs,
            self._supervisor,
            self._plan,
            self._warm_plan,
            self._failed_layouts,
            lambda plan, peaks: self._learned.learn(plan, peaks, self.hardware()),
            lambda: tuple(gpu.uuid or gpu.name for gpu in self._cards()),
        )

    def start(self) -> None:
        """Start the engine process, begin to work on the queue and to watch the machine; returns at once."""
        self._hardware.start()
        self._runner.start()

    def close(self) -> None:
        """Stop the running job, keeping what was made, and end the engine. May be called twice."""
        self._runner.close()
        self._hardware.close()
        self._store.close()
        self._lock_file.close()

    def submit(self, request: GenerationRequest, *, owner: str = "") -> Job:
        """Check the request, keep copies of its files and queue it. Raises InputRejected."""
        if self._store.num_queued() >= self.config.max_queued:
            raise InputRejected(
                Diagnosis(
                    code="queue_full",
                    title=f"{self.config.max_queued} videos are already waiting.",
                    cause="No more are taken until some are done.",
                    remedy="Try again in a few minutes.",
                    facts={"num_waiting": self.config.max_queued},
                )
            )
        if not self._outputs.has_room():
            raise InputRejected(
                Diagnosis(
                    code="disk_almost_full",
                    title="The disk is almost full.",
                    cause=f"Less than {self.config.min_free_bytes / 1e6:.0f} MB are free.",
                    remedy="Delete videos you no longer need, then press Generate again.",
                    facts={"least_mb": round(self.config.min_free_bytes / 1e6)},
                )
            )
        job_id = secrets.token_urlsafe(12)
        folder = self._outputs.folder(job_id)
        folder.mkdir()
        try:
            intake = validate(request, job_id=job_id, job_dir=folder, max_audio_s=self.config.max_audio_s)
            plan = self._plan_for(request.engine, request.size, intake.request)
        except BaseException:
            self._outputs.delete(job_id)
            raise
        job = self._store.add(
            job_id=job_id,
            owner=owner,
            prompt=intake.request.prompt,
            engine=plan.engine,
            size_asked=request.size,
            audio_seconds=intake.request.audio_seconds,
            num_frames=math.ceil(round(intake.request.audio_seconds * FPS, 3)),
            notes=intake.notes,
            request_json=wire.to_json(intake.request),
        )
        self._runner.wake()
        return job

    def job(self, job_id: str) -> Job:
        """Return one job. KeyError when there is none of that id."""
        return self._store.get(job_id)

    def jobs(self, owner: str | None = None) -> list[Job]:
        """Return the jobs of one owner, or of all, newest first."""
        return self._store.jobs(owner=owner)

    def queue_position(self, job_id: str) -> int:
        """Return 0 for a job that runs or has ended, 1 for the next in line, and so on."""
        job = self._store.get(job_id)
        return max(1, self._store.num_ahead(job_id)) if job.state is JobState.QUEUED else 0

    def num_live_jobs(self) -> int:
        """Return how many jobs wait or run."""
        return sum(not job.state.is_terminal for job in self._store.jobs())

    def stop(self, job_id: str) -> None:
        """Cancel a waiting job, or end a running one at its next chunk. KeyError for an unknown id."""
        self._store.get(job_id)
        self._store.request_stop(job_id)

    def adjust(self, job_id: str, *, num_steps: int | None = None, size: str | None = None) -> None:
        """Have the rest of a running video made with other steps or another size, without a new start.

        What becomes of it is found in the job's notes and changes. KeyError for an unknown id; raises InputRejected
        for values that are not offered and for jobs that cannot be changed.
        """
        job = self._store.get(job_id)
        if size is not None:
            parse_size(size)
        check_num_steps(num_steps)
        if job.engine != "s2v" or job.state is not JobState.RUNNING:
            raise InputRejected(
                Diagnosis(
                    code="not_adjustable",
                    title="This video cannot be changed.",
                    cause="Steps and size change only while the s2v engine makes the video.",
                    remedy="Set them before pressing Generate.",
                )
            )
        self._runner.adjust(Adjust(job_id=job_id, num_steps=num_steps, size=size))

    def delete(self, job_id: str) -> None:
        """Forget a job and its files, stopping it first. KeyError for an unknown id."""
        self._store.get(job_id)
        self._outputs.delete(job_id)  # first, because on a full disk the store needs the room
        self._store.delete(job_id)  # a running job sees this as a stop

    def read_media(self, job_id: str, offset: int, *, wait_s: float = 2.0) -> MediaSlice:
        """Return the bytes of the growing video after `offset`, waiting up to `wait_s` for more.

        KeyError for an unknown id or when the log has been replaced by the finished video; ValueError for an
        offset past the end.
        """
        live = self._runner.live_log(job_id, wait_s=wait_s)
        if live is not None:
            return live.read(offset, wait_s=wait_s)
        job = self._store.get(job_id)
        path = self._outputs.media_log(job_id)
        if not path.is_file():
            if job.has_video:
                raise KeyError(job_id)
            return MediaSlice(data=b"", next_offset=offset, ended=job.state.is_terminal)
        return read_slice(path, offset, size=path.stat().st_size, ended=job.state.is_terminal)

    def video_path(self, job_id: str) -> Path | None:
        """Return the finished or kept partial video, or None while there is none. KeyError for an unknown id."""
        path = self._outputs.video(job_id)
        return path if self._store.get(job_id).has_video and path.is_file() else None

    def poster_path(self, job_id: str) -> Path | None:
        """Return a small picture of the job. KeyError for an unknown id."""
        self._store.get(job_id)
        path = self._outputs.poster(job_id)
        return path if path.is_file() else None

    def portrait_path(self, job_id: str) -> Path | None:
        """Return the portrait as the engine sees it. KeyError for an unknown id."""
        self._store.get(job_id)
        path = self._outputs.folder(job_id) / "portrait.png"
        return path if path.is_file() else None

    def engine_status(self) -> EngineStatus:
        """Return how the engine process is."""
        return self._runner.status()

    def hardware(self) -> HardwareSnapshot:
        """Return what the machine has and how much is free."""
        return self._hardware.snapshot()

    def num_missing_machines(self) -> int:
        """Return how many machines are waited for before the s2v engine makes videos."""
        return max(0, self.config.nnodes - 1 - len(self._supervisor.machines))

    def telemetry(self) -> tuple[Telemetry, ...]:
        """Return what the ranks of the engine reported last, none for an engine that measures nothing."""
        return self._runner.telemetry()

    def card_gauges(self) -> tuple[CardGauge, ...]:
        """Return whose memory is in use on every graphics card, and what the video at work or the next one needs."""
        return card_gauges(
            self.hardware(), self.telemetry(), self._runner.plan, recent_peaks=self._runner.recent_peaks()
        )

    def size_forecasts(self) -> dict[str, SizeForecast]:
        """Return what would be made now of each level of detail; empty where the built-in engine makes all videos."""
        return self._size_forecasts.read()

    def predicted_fps(self, job: Job) -> float | None:
        """Return the pictures per second that are forecast for a job at work, None where there is no forecast."""
        return predicted_fps(self._runner.plan) if job.state is JobState.RUNNING else None

    def _plan(self, job: Job, request: ValidatedRequest) -> ExecutionPlan:
        return self._plan_for(job.engine, job.size_asked, request)

    def _plan_for(self, engine: str, size: str, request: ValidatedRequest) -> ExecutionPlan:
        with Image.open(request.image_path) as image:
            width, height = image.size
        return plan_request(
            engine=engine,
            size=size,
            picture_width=width,
            picture_height=height,
            num_steps=request.num_steps,
            pin_size=request.pin_size,
            s2v=self._find_s2v(),
        )

    def _warm_plan(self) -> ExecutionPlan:
        """Return the plan of an ordinary request, for the engine to load before there is any."""
        width, height = STANDARD.landscape
        s2v = self._find_s2v()
        return plan_request(engine=AUTO, size=AUTO, picture_width=width, picture_height=height, s2v=s2v)

    def _find_s2v(self) -> S2vSetup:
        config = dataclasses.replace(self.config, **vars(self.model.folders))
        found = find_s2v(config, self.hardware(), self._failed_layouts.avoided(), self._cluster)
        return dataclasses.replace(
            found, calibration=self._learned.calibration, loaded=self._supervisor.loaded_plan
        )

    def _cards(self) -> tuple[GpuSample, ...]:
        """Return the graphics cards that the app may use."""
        return visible_cards(self.hardware().gpus, self.config.visible_cards)

    def _open_cluster(self) -> Cluster | None:
        """Listen for other machines. Raises LiveAvatarError when the address cannot be used."""
        if self.config.rdzv_endpoint is None:
            return None
        own_slots = self.config.slots or len(self._cards()) or 1
        token_file = self.config.token_file or self.config.data_dir / "cluster.token"
        try:
            return open_cluster(self.config.rdzv_endpoint, token_file, own_slots=own_slots)
        except BaseException:
            self._lock_file.close()
            raise

    def _recover(self) -> None:
        """Give the jobs that were being made when the app died their end, and keep what was made."""
        for job in self._store.unfinished():
            has_video = self._outputs.seal(job.id)
            self._store.end(job.id, JobState.FAILED, diagnosis=interrupted(), has_video=has_video)

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock_file.close()
            raise LiveAvatarError(
                Diagnosis(
                    code="already_running",
                    title="LiveAvatar Studio is already running.",
                    cause=f"Another one uses the data folder {self.config.data_dir}.",
                    remedy="Use that one, end it, or set LIVEAVATAR_DATA_DIR to another folder.",
                    facts={"folder": str(self.config.data_dir)},
                )
            ) from error

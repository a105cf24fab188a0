"""The thread that makes the queued jobs, one after the other, and keeps the engine warm in between."""

from __future__ import annotations

import dataclasses
import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from PIL import Image

from liveavatar.core import wire
from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.events import (
    Adjust,
    Cancelled,
    EngineEvent,
    Failed,
    Finished,
    LoadStage,
    PlanChanged,
    Telemetry,
)
from liveavatar.core.job import Job, JobState
from liveavatar.core.peaks import RankPeaks
from liveavatar.core.plan import ExecutionPlan, PlanChange
from liveavatar.core.request import ValidatedRequest
from liveavatar.diagnostics.diagnose import from_exception
from liveavatar.media.made import read_made
from liveavatar.planning.ladder import after_shortage, budget_of, describe
from liveavatar.service.failed_layouts import FailedLayouts
from liveavatar.service.job_store import JobStore
from liveavatar.service.media_log import MediaLog
from liveavatar.service.outputs import Outputs
from liveavatar.service.recording import Recording
from liveavatar.service.supervisor import EngineSupervisor, Phase

log = logging.getLogger(__name__)

_IDLE_S = 0.2
_STORE_RETRY_S = 2.0
_SWEEP_S = 600.0
_MAX_BACKOFF_S, _MAX_DOUBLINGS = 300.0, 10
_MACHINE_LEFT = ("machine_lost", "machines_too_few")  # the next plan is made without it


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """What the page shows of the engine: "starting", "ready", "busy", "restarting" or "failed"."""

    state: str
    engine: str
    diagnosis: Diagnosis | None  # why it failed last, until it is ready again
    rss_bytes: int
    loading: LoadStage | None


class JobRunner(threading.Thread):
    """Claims jobs in order and carries each to its one terminal state."""

    def __init__(
        self,
        store: JobStore,
        outputs: Outputs,
        supervisor: EngineSupervisor,
        make_plan: Callable[[Job, ValidatedRequest], ExecutionPlan],
        make_warm_plan: Callable[[], ExecutionPlan],
        failed_layouts: FailedLayouts,
        learn: Callable[[ExecutionPlan, Mapping[int, RankPeaks]], None],
        find_cards: Callable[[], tuple[str, ...]],
    ) -> None:
        super().__init__(name="job-runner", daemon=True)
        self._store = store
        self._outputs = outputs
        self._supervisor = supervisor
        self._make_plan = make_plan
        self._make_warm_plan = make_warm_plan
        self._warm_plan = make_warm_plan()
        self._changed_plan: ExecutionPlan | None = None  # what became of it in the video at work
        self._wished_steps: Adjust | None = None  # for the video at work
        self._failed_layouts = failed_layouts
        self._learn = learn
        self._find_cards = find_cards
        self._machines, self._cards = supervisor.machines, find_cards()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._wishes: queue.SimpleQueue[Adjust] = queue.SimpleQueue()
        self._logs: dict[str, MediaLog] = {}
        self._log_opened = threading.Condition()
        self._failure: Diagnosis | None = None
        self._num_failures = 0
        self._restart_at = 0.0
        self._is_busy = False

    def wake(self) -> None:
        """Have the queue looked at now: a job was added."""
        self._wake.set()

    def adjust(self, wish: Adjust) -> None:
        """Have the engine told; what is wished of a job that has ended meanwhile is dropped."""
        self._wishes.put(wish)

    def close(self) -> None:
        """Stop the running job and the engine, and wait for the thread to leave. May be called twice."""
        self._closing.set()
        self._wake.set()
        if self.is_alive():
            self.join()
        self._supervisor.close()

    def live_log(self, job_id: str, *, wait_s: float = 0.0) -> MediaLog | None:
        """Return the log of a job that is being made; wait for a job that is yet to begin."""
        with self._log_opened:
            self._log_opened.wait_for(
                lambda: job_id in self._logs or self._store_state(job_id).is_terminal, timeout=wait_s
            )
            return self._logs.get(job_id)

    def status(self) -> EngineStatus:
        """Return how the engine is. Safe to call from any thread."""
        phase = self._supervisor.phase
        if self._is_busy:
            state = "busy"
        elif phase is Phase.READY:
            state = "ready"
        elif self._failure is None:
            state = "starting"
        else:
            state = "failed" if phase is Phase.STOPPED else "restarting"
        return EngineStatus(
            state=state,
            engine=self._warm_plan.engine,
            diagnosis=self._failure,
            rss_bytes=self._supervisor.rss_bytes,
            loading=self._supervisor.loading,
        )

    @property
    def plan(self) -> ExecutionPlan:
        """Return the plan that is carried out, or that of the loaded engine: the next video's, if it is alike."""
        return self._changed_plan or self._warm_plan

    def telemetry(self) -> tuple[Telemetry, ...]:
        """Return what the ranks of the engine reported last."""
        return self._supervisor.measurements.latest()

    def recent_peaks(self) -> dict[int, int]:
        """Return the most that each rank's allocator held within the last ten seconds."""
        return self._supervisor.measurements.recent_peaks()

    def run(self) -> None:
        """Make jobs until closed."""
        next_sweep = 0.0
        while not self._closing.is_set():
            if job := self._claim():
                self._is_busy = True
                self._make(job)
                self._is_busy, self._changed_plan, self._wished_steps = False, None, None
                continue
            self._keep_warm()
            if time.monotonic() >= next_sweep:
                self._sweep()
                next_sweep = time.monotonic() + _SWEEP_S
            self._wake.wait(_IDLE_S)
            self._wake.clear()
        self._supervisor.stop()

    def _claim(self) -> Job | None:
        try:
            return self._store.claim_next()
        except sqlite3.OperationalError as error:  # the disk is full: the jobs keep waiting
            log.error("no job can be taken from the queue yet: %s", error)
            self._closing.wait(_STORE_RETRY_S)
            return None

    def _sweep(self) -> None:
        try:
            self._outputs.sweep(self._store)
        except (OSError, sqlite3.OperationalError) as error:
            log.error("retention could not tidy up: %s", error)

    def _keep_warm(self) -> None:
        """Have an engine loaded before it is needed; wait longer each time it fails."""
        self._look_around()
        try:
            if time.monotonic() >= self._restart_at:
                if self._num_failures > 1:  # other programs may have taken, or given back, memory
                    self._warm_plan = self._make_warm_plan()
                self._supervisor.start(self._warm_plan)
            self._supervisor.poll(0)
            if self._supervisor.phase is Phase.READY:
                self._failure, self._num_failures = None, 0
        except EngineFailed as failure:
            self._note_failure(failure.diagnosis, self._warm_plan)
        except Exception as error:  # without this thread no job would ever be made
            log.exception("the engine could not be kept ready")
            self._supervisor.stop()
            self._note_failure(from_exception(error), self._warm_plan)

    def _look_around(self) -> None:
        """Plan anew, and try again at once, when machines or cards have come or gone.

        An engine that is ready stays where only cards changed: a driver that says nothing for a moment takes none.
        """
        machines, cards = self._supervisor.machines, self._find_cards()
        if (machines, cards) == (self._machines, self._cards):
            return
        if machines != self._machines or self._supervisor.phase is not Phase.READY:
            self._warm_plan = self._make_warm_plan()
        self._machines, self._cards = machines, cards
        self._num_failures, self._restart_at = 0, 0.0

    def _note_failure(self, diagnosis: Diagnosis, plan: ExecutionPlan) -> None:
        self._note_breakdown(plan, diagnosis)
        self._failure = diagnosis
        self._num_failures += 1
        doublings = min(self._num_failures - 1, _MAX_DOUBLINGS)
        self._restart_at = time.monotonic() + min(_MAX_BACKOFF_S, 2.0**doublings - 1)

    def _note_breakdown(self, plan: ExecutionPlan, diagnosis: Diagnosis) -> None:
        """Plan the next lower layout when this one keeps failing for other reasons than a machine that left."""
        if diagnosis.code in _MACHINE_LEFT:
            return
        self._failed_layouts.failed(plan)
        if self._warm_plan.parallel in self._failed_layouts.avoided():
            self._warm_plan = self._make_warm_plan()

    def _make(self, job: Job) -> None:
        """Carry one claimed job to its terminal state. Nothing that happens to a job ends this thread."""
        log.info("job %s: %.1f s of voice, engine %s", job.id, job.audio_seconds, job.engine)
        try:
            end = self._make_video(job)
        except Exception as error:  # the queue must go on
            log.exception("job %s met an error in the app", job.id)
            end = Failed(job_id=job.id, diagnosis=from_exception(error))
        self._end(job, end)

    def _make_video(self, job: Job) -> EngineEvent:
        request = wire.from_json(ValidatedRequest, json.loads(job.request_json))
        plan = self._make_plan(job, request)
        self._store.set_plan(job.id, size_made=plan.size, num_frames=job.num_frames)
        for decision in plan.decisions:
            self._store.add_note(job.id, decision)
        self._store.advance(job.id, expected=JobState.PLANNING, new=JobState.LOADING)

        def should_stop() -> bool:
            return self._closing.is_set() or self._store.stop_requested(job.id)

        recording = Recording(job.id, self._store)
        while True:
            end = self._attempt(job, request, plan, recording, should_stop)
            retreat = self._retreat(request, self._changed_plan or plan, end)
            if retreat is None:
                return end
            recording.take(retreat)
            plan = self._changed_plan = _with_new_forecast(retreat.plan)
            request = dataclasses.replace(request, made_path=str(self._outputs.media_log(job.id)))
            if self._wished_steps is not None:
                self._wishes.put(self._wished_steps)

    def _attempt(
        self,
        job: Job,
        request: ValidatedRequest,
        plan: ExecutionPlan,
        recording: Recording,
        should_stop: Callable[[], bool],
    ) -> EngineEvent:
        """Make the video, or what is missing of it, by one plan; return the terminal event."""
        try:
            if not self._supervisor.wait_ready(plan, should_stop=should_stop):
                return Cancelled(job_id=job.id)
        except EngineFailed as failure:
            self._note_failure(failure.diagnosis, plan)
            return Failed(job_id=job.id, diagnosis=failure.diagnosis)
        self._warm_plan = plan  # what was used last stays loaded: the next job likely wants the same
        if recording.media_log is None:
            self._store.advance(job.id, expected=JobState.LOADING, new=JobState.RUNNING)
            recording.media_log = MediaLog(self._outputs.media_log(job.id))
            with self._log_opened:
                self._logs[job.id] = recording.media_log
                self._log_opened.notify_all()
        end = self._follow(job, request, plan, recording, should_stop)
        if isinstance(end, Finished):
            self._failed_layouts.worked(plan)
        elif isinstance(end, Failed) and self._supervisor.phase is Phase.STOPPED:
            self._note_breakdown(plan, end.diagnosis)
        return end

    def _retreat(
        self, request: ValidatedRequest, plan: ExecutionPlan, end: EngineEvent
    ) -> PlanChanged | None:
        """Return with what the ranks are to go on after one ran out of memory, or None.

        One rank alone goes down its ladder itself, without a new start.
        """
        if not isinstance(end, Failed) or end.diagnosis.code != "graphics_memory_full":
            return None
        rank = end.diagnosis.facts.get("rank")
        if not isinstance(rank, int) or self._closing.is_set():
            return None
        with Image.open(request.image_path) as portrait:
            lower = after_shortage(plan, rank, portrait.size, pin_size=request.pin_size)
        if lower is None:
            return None
        made = read_made(self._outputs.media_log(request.job_id))
        change = PlanChange(
            first_frame=made.num_frames if made else 0,
            cause="memory_full",
            before=describe(plan),
            after=describe(lower),
            reason=f"{end.diagnosis.title} {end.diagnosis.cause}",
            remedy="Other programs that use it would have to be closed, or a smaller size or fewer steps chosen.",
        )
        log.warning("job %s: %s", request.job_id, change.note().text)
        return PlanChanged(job_id=request.job_id, change=change, plan=lower)

    def _follow(
        self,
        job: Job,
        request: ValidatedRequest,
        plan: ExecutionPlan,
        recording: Recording,
        should_stop: Callable[[], bool],
    ) -> EngineEvent:
        """Record what the engine sends until its terminal event, which is returned."""
        self._supervisor.measurements.begin_job()
        end: EngineEvent | None = None
        for event in self._supervisor.run(
            request,
            plan,
            should_stop=lambda: not recording.keep_up() or should_stop(),
            wishes=lambda: self._wishes_for(job.id),
        ):
            recording.take(event)
            if isinstance(event, PlanChanged):
                self._changed_plan = _with_new_forecast(event.plan)
            end = event
        assert end is not None, "the supervisor always ends a job"
        if recording.write_error is not None:
            raise recording.write_error
        recording.flush()
        if isinstance(end, Finished) and self._changed_plan is None:
            self._learn(plan, self._supervisor.measurements.peaks_of_job())
        return end

    def _wishes_for(self, job_id: str) -> list[Adjust]:
        """Return what is wished of a running job now; the latest number of steps is kept for a new start."""
        wishes = [wish for wish in self._take_wishes() if wish.job_id == job_id]
        for wish in wishes:
            if wish.num_steps is not None:
                self._wished_steps = dataclasses.replace(wish, size=None)
        return wishes

    def _take_wishes(self) -> Iterator[Adjust]:
        while not self._wishes.empty():
            yield self._wishes.get()

    def _end(self, job: Job, end: EngineEvent) -> None:
        """Seal the files and give the job its terminal state, in this order: readers then find a whole video."""
        diagnosis = end.diagnosis if isinstance(end, Failed) else None
        state = {Failed: JobState.FAILED, Finished: JobState.FINISHED}.get(type(end), JobState.CANCELLED)
        has_video = self._outputs.seal(job.id)
        while not self._try_end(job.id, state, diagnosis, has_video) and not self._closing.wait(
            _STORE_RETRY_S
        ):
            pass  # a full disk: nothing else can be made either until there is room
        with self._log_opened:
            media_log = self._logs.pop(job.id, None)
            self._log_opened.notify_all()
        if media_log is not None:
            media_log.end()
        log.info("job %s: %s", job.id, self._store_state(job.id))

    def _try_end(self, job_id: str, state: JobState, diagnosis: Diagnosis | None, has_video: bool) -> bool:
        try:
            self._store.end(job_id, state, diagnosis=diagnosis, has_video=has_video)
        except sqlite3.OperationalError as error:
            log.error("job %s: its end could not be recorded yet: %s", job_id, error)
            return False
        return True

    def _store_state(self, job_id: str) -> JobState:
        """Return the state of a job; a deleted one counts as cancelled."""
        try:
            return self._store.get(job_id).state
        except KeyError:
            return JobState.CANCELLED


def _with_new_forecast(plan: ExecutionPlan) -> ExecutionPlan:
    """Return a changed plan with what it needs instead of what the plan before it had needed."""
    budgets = tuple(budget_of(plan, budget.rank) for budget in plan.budgets)
    return dataclasses.replace(plan, budgets=budgets)

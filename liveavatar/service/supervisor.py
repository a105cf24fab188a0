"""Owns the engine: starts its ranks, talks to them, and ends all of them when one fails or a deadline passes.

Used by one thread (the job runner's), so there is no locking here. Every wait is a short poll inside a loop
that checks the deadline of the phase the engine is in.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

import zmq

from liveavatar.config import Deadlines
from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.events import (
    TERMINAL_EVENTS,
    Adjust,
    Cancelled,
    Command,
    EngineEvent,
    Failed,
    Generate,
    Hello,
    Load,
    LoadStage,
    PlanChanged,
    Ready,
    Stop,
    Telemetry,
)
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import ValidatedRequest
from liveavatar.diagnostics.first_failure import at_rank, first_failure, hang
from liveavatar.service.cluster import Cluster
from liveavatar.service.engine_run import EngineRun
from liveavatar.service.failure_folder import new_failure_folder
from liveavatar.service.job_deadline import JobDeadline
from liveavatar.service.measurements import Measurements

log = logging.getLogger(__name__)

_POLL_S = 0.05
_MAX_PORT_TRIES = 3


class Phase(StrEnum):
    """Where the engine stands. It is ready when all of its ranks are."""

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"


class EngineSupervisor:
    """One engine at a time. After any failure all its processes are gone and the next call starts fresh ones."""

    def __init__(
        self, module: str, data_dir: Path, deadlines: Deadlines, cluster: Cluster | None = None
    ) -> None:
        """`cluster` holds the machines that take part; it belongs to the supervisor from now on."""
        self._module = module
        self._log_path = data_dir / "engine.log"
        self._failures_dir = data_dir / "failures"
        self._deadlines = deadlines
        self._cluster = cluster
        self._context: zmq.Context[zmq.Socket[bytes]] = cluster.context if cluster else zmq.Context()
        self._run: EngineRun | None = None
        self._failure: EngineFailed | None = None  # told by the next poll that has nothing else to tell
        self._num_ready = self._num_up = 0
        self._phase_since = 0.0
        self._port_tries = 0
        self.phase = Phase.STOPPED
        self.measurements = Measurements()

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the process ids of the engine on this machine, by rank; each leads a process group."""
        return self._run.pids if self._run else ()

    @property
    def machines(self) -> tuple[str, ...]:
        """Return the other machines that are there; one that was started anew counts as another one."""
        machines = self._cluster.machines if self._cluster else ()
        return tuple(f"{machine.name} {machine.instance}" for machine in machines)

    @property
    def loaded_plan(self) -> ExecutionPlan | None:
        """Return what the engine is ready for. Safe to call from any thread."""
        run = self._run
        return run.plan if run is not None and self.phase is Phase.READY else None

    @property
    def rss_bytes(self) -> int:
        """Return the host memory of all ranks."""
        return self._run.rss_bytes if self._run else 0

    @property
    def loading(self) -> LoadStage | None:
        """Return what an engine that is being loaded is at."""
        return self._run.loading if self._run and self.phase is Phase.LOADING else None

    def start(self, plan: ExecutionPlan) -> None:
        """Start the ranks and have them load the plan's engine; returns at once. Does nothing if they run it.

        Ranks that run another engine are ended first.
        """
        if self._run is not None:
            if self._run.plan.same_engine(plan):
                return
            self.stop()
        self._failure = None
        self._run = EngineRun(self._context, self._module, self._log_path, plan, self._cluster)
        self._num_up = self._num_ready = 0
        self._enter(Phase.STARTING)
        log.info("engine started, %d processes: %s", len(self.pids), " ".join(map(str, self.pids)))

    def wait_ready(self, plan: ExecutionPlan, *, should_stop: Callable[[], bool]) -> bool:
        """Wait until the plan's engine is loaded. False when `should_stop` came first; loading goes on then.

        Raises EngineFailed when the engine cannot start.
        """
        if self.phase is Phase.READY and self._run is not None and self._run.has_failed():
            self.stop()  # it died while it was idle: that costs this job some time, not its video
        self.start(plan)
        while self.phase is not Phase.READY:
            if should_stop():
                return False
            self.poll(_POLL_S)
        return True

    def run(
        self,
        request: ValidatedRequest,
        plan: ExecutionPlan,
        *,
        should_stop: Callable[[], bool],
        wishes: Callable[[], Iterable[Adjust]] = tuple,
    ) -> Iterator[EngineEvent]:
        """Make one video on the ready engine: its events, ending with exactly one terminal event.

        `wishes` is asked all the time for what is to be passed on to the engine. A caller that gives up before that
        event has the engine ended, so that nobody works for nothing.
        """
        assert self.phase is Phase.READY, "wait_ready comes first"
        is_over = False
        try:
            for event in self._follow(request, plan, should_stop, wishes):
                is_over = isinstance(event, TERMINAL_EVENTS)
                yield event
        finally:
            if not is_over:
                self._end_run()

    def _follow(
        self,
        request: ValidatedRequest,
        plan: ExecutionPlan,
        should_stop: Callable[[], bool],
        wishes: Callable[[], Iterable[Adjust]],
    ) -> Iterator[EngineEvent]:
        self._send(Generate(request=request, plan=plan))
        deadline = JobDeadline(self._deadlines, plan)
        is_stopping = False
        while True:
            if not is_stopping and should_stop():
                self._send(
                    Stop(job_id=request.job_id)
                )  # the first stage acts on it and tells the others in order
                is_stopping = True
                deadline.stopping()
            for wish in wishes():
                self._send(wish)
            try:
                events = self.poll(_POLL_S)
                if not events and deadline.has_passed():
                    self._hang(deadline.phrase, deadline.limit_s)
                    events = self.poll(0)
            except EngineFailed as failure:
                yield (
                    Cancelled(job_id=request.job_id)
                    if is_stopping
                    else Failed(job_id=request.job_id, diagnosis=failure.diagnosis)
                )
                return
            for event in events:
                if getattr(event, "job_id", None) != request.job_id:
                    continue  # left over from a job that was given up
                if self._run and isinstance(event, PlanChanged) and event.change.cause != "loaded":
                    self._run.plan = _as_loaded(event.plan, self._run.plan)
                deadline.take(event)
                yield event
                if isinstance(event, TERMINAL_EVENTS):
                    return

    def poll(self, timeout_s: float) -> list[EngineEvent]:
        """Handle what the engine said and return the events of jobs.

        Raises EngineFailed when a rank ended, failed to load, or let a deadline pass; all of them are gone then.
        """
        job_events: list[EngineEvent] = []
        if self._run is None and self._cluster is not None:
            self._cluster.poll()
        if self._run is not None:
            self._handle(self._run.receive(timeout_s), job_events)
            if self._run.has_failed():
                self._handle(self._run.hear_last_words(), job_events)
                self._fail_as_first_rank()
            elif not job_events:
                self._check_deadlines()
        if self._failure is not None and not job_events:
            failure, self._failure = self._failure, None
            raise failure
        return job_events

    def stop(self) -> None:
        """End all ranks: politely, then by force. Does nothing when there are none."""
        if self._run is None:
            return
        is_listening = self.phase is Phase.READY and not self._run.has_failed()
        if is_listening and not self._run.leave(self._deadlines.shutdown_s):
            log.warning("the engine did not leave by itself")
        self._end_run()

    def close(self) -> None:
        """End the engine and release the sockets. The supervisor is not used again."""
        self.stop()
        if self._cluster is not None:
            self._cluster.close()
        self._context.destroy(linger=0)

    def _send(self, command: Command) -> None:
        """Send to all ranks, if there are any left."""
        if self._run is not None:
            self._run.send(command)

    def _handle(
        self, said: Sequence[tuple[int, Hello | Ready | EngineEvent]], job_events: list[EngineEvent]
    ) -> None:
        assert self._run is not None
        for rank, event in said:
            if isinstance(event, Hello):
                self._run.send(Load(plan=self._run.plan), rank)
                self._num_up += 1
                if self._num_up == self._run.world_size:
                    self._enter(Phase.LOADING)
            elif isinstance(event, Ready):
                self._num_ready += 1
                if self._num_ready == self._run.world_size:
                    self._enter(Phase.READY)
                    self._port_tries = 0
            elif isinstance(event, Telemetry):
                self.measurements.take(event)
            elif rank == self._run.speaker:
                job_events.append(event)

    def _check_deadlines(self) -> None:
        assert self._run is not None
        in_phase_s = time.monotonic() - self._phase_since
        if self.phase is Phase.STARTING and in_phase_s > self._deadlines.start_s:
            self._hang("start", self._deadlines.start_s)
        elif self.phase is Phase.LOADING and in_phase_s > (
            load_s := self._deadlines.loading_s(self._run.plan)
        ):
            self._hang("load", load_s)
        elif self.phase is not Phase.STARTING and self._run.longest_silence_s() > self._deadlines.heartbeat_s:
            self._hang("give a sign of life", self._deadlines.heartbeat_s)

    def _hang(self, phrase: str, waited_s: float) -> None:
        """Record what every rank is doing and end them all."""
        assert self._run is not None
        plan, folder = self._run.plan, new_failure_folder(self._failures_dir)
        states = self._run.states()
        self._run.dump_stacks(folder)
        self._fail(hang(states, plan, phrase, waited_s, record=str(folder)))

    def _fail_as_first_rank(self) -> None:
        assert self._run is not None
        plan = self._run.plan
        rank, diagnosis = first_failure(self._run.states(), is_start=self.phase is not Phase.READY)
        self._fail(at_rank(diagnosis, rank, plan))
        if diagnosis.code == "port_taken" and self._port_tries < _MAX_PORT_TRIES:
            self._port_tries += 1
            self.start(plan)  # with another port; nobody needs to know

    def _fail(self, diagnosis: Diagnosis) -> None:
        log.error("engine failed: %s", diagnosis.sentence())
        self._end_run()
        self._failure = EngineFailed(diagnosis)

    def _end_run(self) -> None:
        if self._run is not None:
            self._run.end()
            self._run = None
            self.measurements.clear()
            self._enter(Phase.STOPPED)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._phase_since = time.monotonic()


def _as_loaded(plan: ExecutionPlan, before: ExecutionPlan) -> ExecutionPlan:
    """Return what the engine is loaded as after a change of plan: weights change for good, the decoder for a video."""
    return dataclasses.replace(plan, tiled_vae=before.tiled_vae)

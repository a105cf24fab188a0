"""Owns the engine process: starts it, talks to it, and ends it when a deadline passes.

Used by one thread (the job runner's), so there is no locking here. Every wait is a short poll inside a loop
that checks the deadline of the phase the engine is in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import zmq

from liveavatar.config import Deadlines
from liveavatar.core import wire
from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.events import (
    TERMINAL_EVENTS,
    Cancelled,
    Chunk,
    Command,
    EngineEvent,
    Failed,
    Generate,
    Heartbeat,
    Hello,
    Load,
    Progress,
    Ready,
    Shutdown,
    Stop,
    WorkerEvent,
)
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import ValidatedRequest
from liveavatar.diagnostics.diagnose import engine_exited, engine_silent

log = logging.getLogger(__name__)

_IMPORT_ROOT = str(Path(__file__).parents[2])  # the app may have been started from any folder
_POLL_S = 0.05
_REAP_S = 5.0


class Phase(StrEnum):
    """Where the engine process stands."""

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"


class EngineSupervisor:
    """One engine process at a time. After any failure the process is gone and the next call starts a fresh one."""

    def __init__(self, module: str, log_path: Path, deadlines: Deadlines) -> None:
        self._module = module
        self._log_path = log_path
        self._deadlines = deadlines
        self._context = zmq.Context()
        self._process: subprocess.Popen[bytes] | None = None
        self._plan: ExecutionPlan | None = None
        self._phase_since = self._last_heard = 0.0
        self.phase = Phase.STOPPED
        self.rss_bytes = 0

    @property
    def pid(self) -> int | None:
        """Return the process id of the engine, which is also its process group."""
        return self._process.pid if self._process else None

    def start(self, plan: ExecutionPlan) -> None:
        """Start the process and have it load the plan's engine; returns at once. Does nothing if one runs it.

        A process that runs another engine is ended first.
        """
        if self._process is not None:
            if self._plan is not None and self._plan.same_engine(plan):
                return
            self.stop()
        self._plan = plan
        base = os.environ.get("XDG_RUNTIME_DIR")
        self._run_dir = Path(
            tempfile.mkdtemp(prefix="liveavatar-", dir=base if base and Path(base).is_dir() else None)
        )
        self._control = self._bind(zmq.ROUTER, "control")
        self._events = self._bind(zmq.PULL, "events")
        with self._log_path.open("ab") as log_file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(self._run_dir), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join([_IMPORT_ROOT, os.environ.get("PYTHONPATH", "")])},
                start_new_session=True,  # a group of its own, so that the whole of it can be ended
            )
        self._last_heard = time.monotonic()
        self._enter(Phase.STARTING)
        log.info("engine process %d started", self._process.pid)

    def wait_ready(self, plan: ExecutionPlan, *, should_stop: Callable[[], bool]) -> bool:
        """Wait until the plan's engine is loaded. False when `should_stop` came first; loading goes on then.

        Raises EngineFailed when the engine cannot start.
        """
        self.start(plan)
        while self.phase is not Phase.READY:
            if should_stop():
                return False
            self.poll(_POLL_S)
        return True

    def run(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        """Make one video on the ready engine: its events, ending with exactly one terminal event.

        A caller that gives up before that event has the engine ended, so that nobody works for nothing.
        """
        assert self.phase is Phase.READY, "wait_ready comes first"
        is_over = False
        try:
            for event in self._follow(request, plan, should_stop):
                is_over = isinstance(event, TERMINAL_EVENTS)
                yield event
        finally:
            if not is_over and self._process is not None:
                self._end_process()

    def _follow(
        self, request: ValidatedRequest, plan: ExecutionPlan, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        job_id = request.job_id
        self._send(Generate(request=request, plan=plan))
        waits_since, waits_for, phrase = (
            time.monotonic(),
            self._deadlines.first_chunk_s,
            "show a first picture",
        )
        is_stopping = False
        while True:
            if not is_stopping and should_stop():
                self._send(Stop(job_id=job_id))
                is_stopping = True
                waits_since, waits_for, phrase = time.monotonic(), self._deadlines.stop_s, "stop"
            try:
                events = self.poll(_POLL_S)
                if not events and time.monotonic() - waits_since > waits_for:
                    raise self._hung(phrase, waits_for)
            except EngineFailed as failure:
                yield (
                    Cancelled(job_id=job_id)
                    if is_stopping
                    else Failed(job_id=job_id, diagnosis=failure.diagnosis)
                )
                return
            for event in events:
                if getattr(event, "job_id", None) != job_id:
                    continue  # left over from a job that was given up
                if isinstance(event, Progress | Chunk) and not is_stopping:
                    waits_since = time.monotonic()
                if isinstance(event, Chunk) and not is_stopping:
                    waits_for, phrase = self._deadlines.chunk_s, "make the next part of the video"
                yield event
                if isinstance(event, TERMINAL_EVENTS):
                    return

    def poll(self, timeout_s: float) -> list[EngineEvent]:
        """Handle what the engine said and return the events of jobs.

        Raises EngineFailed when the process ended, failed to load, or let a deadline pass; it is gone then.
        """
        if self._process is None:
            return []
        job_events: list[EngineEvent] = []
        if self._events.poll(int(timeout_s * 1000)):
            while self._events.poll(0):
                event: WorkerEvent = wire.decode(self._events.recv_multipart())
                self._last_heard = time.monotonic()
                self._handle(event, job_events)
        if not job_events:
            self._check_alive()
        return job_events

    def stop(self) -> None:
        """End the process: politely, then by force. Does nothing when there is none."""
        if self._process is None:
            return
        if self._process.poll() is None and self.phase is Phase.READY:
            self._send(Shutdown())
            try:
                self._process.wait(self._deadlines.shutdown_s)
            except subprocess.TimeoutExpired:
                log.warning("the engine did not leave by itself")
        self._end_process()

    def close(self) -> None:
        """End the process and release the sockets. The supervisor is not used again."""
        self.stop()
        self._context.destroy(linger=0)

    def _handle(self, event: WorkerEvent, job_events: list[EngineEvent]) -> None:
        if isinstance(event, Hello):
            assert self._plan is not None
            self._send(Load(plan=self._plan))
            self._enter(Phase.LOADING)
        elif isinstance(event, Ready):
            self._enter(Phase.READY)
        elif isinstance(event, Heartbeat):
            self.rss_bytes = event.rss_bytes
        elif isinstance(event, Failed) and not event.job_id:
            raise self._failed(event.diagnosis)
        else:
            job_events.append(event)

    def _check_alive(self) -> None:
        assert self._process is not None
        exit_code = self._process.poll()
        if exit_code is not None:
            if self._events.poll(100):
                return  # its last words are still in the socket: hear them first
            raise self._failed(engine_exited(exit_code, is_start=self.phase is not Phase.READY))
        now = time.monotonic()
        if now - self._last_heard > self._deadlines.heartbeat_s and self.phase is not Phase.STARTING:
            raise self._hung("give a sign of life", self._deadlines.heartbeat_s)
        if self.phase is Phase.STARTING and now - self._phase_since > self._deadlines.start_s:
            raise self._hung("start", self._deadlines.start_s)
        if self.phase is Phase.LOADING and now - self._phase_since > self._load_deadline_s():
            raise self._hung("load", self._load_deadline_s())

    def _load_deadline_s(self) -> float:
        has_model = self._plan is not None and self._plan.model is not None
        return self._deadlines.load_model_s if has_model else self._deadlines.load_s

    def _hung(self, phrase: str, waited_s: float) -> EngineFailed:
        """Record where the engine stands, end it, and return the error to raise."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)  # faulthandler writes every stack into the log
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.3)
        return self._failed(engine_silent(phrase, waited_s))

    def _failed(self, diagnosis: Diagnosis) -> EngineFailed:
        log.error("engine failed: %s", diagnosis.sentence())
        self._end_process()
        return EngineFailed(diagnosis)

    def _end_process(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):  # the whole group may have left already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_REAP_S)
        self._process = None
        self._control.close(linger=0)
        self._events.close(linger=0)
        shutil.rmtree(self._run_dir, ignore_errors=True)
        self.rss_bytes = 0
        self._enter(Phase.STOPPED)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._phase_since = time.monotonic()

    def _bind(self, kind: int, name: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.bind(f"ipc://{self._run_dir}/{name}")
        return socket

    def _send(self, command: Command) -> None:
        self._control.send_multipart([b"rank-0", *wire.encode(command)])

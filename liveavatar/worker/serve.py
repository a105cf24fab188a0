"""The worker: takes commands, runs the engine, sends events."""

from __future__ import annotations

import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import psutil
import zmq

from liveavatar.config import process_rank
from liveavatar.core import wire
from liveavatar.core.engine import Engine
from liveavatar.core.events import (
    TERMINAL_EVENTS,
    Adjust,
    Command,
    Failed,
    Generate,
    Heartbeat,
    Hello,
    Load,
    LoadStage,
    Ready,
    Shutdown,
    Stop,
    WorkerEvent,
)
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.wire_address import STACKS_SUFFIX, WireAddress
from liveavatar.diagnostics.diagnose import from_exception
from liveavatar.worker.orphan_guard import OrphanGuard

log = logging.getLogger(__name__)

_HEARTBEAT_S = 1.0
_SEND_TIMEOUT_MS = 30_000  # the app reads all the time; if it has not for this long, it hangs

EngineFactories = Mapping[str, Callable[[], Engine]]


class Wire:
    """Where this process is connected to, and under which name."""

    def __init__(self, run_dir: Path) -> None:
        self._address = WireAddress.read(run_dir)
        self.name = f"rank-{process_rank()}".encode()

    def connect_control(self) -> zmq.Socket[bytes]:
        """Return the socket that commands arrive at."""
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, self.name)
        return self._connect(socket, self._address.control)

    def connect_events(self) -> EventSender:
        """Return a sending end of the event socket."""
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        socket.setsockopt(zmq.SNDTIMEO, _SEND_TIMEOUT_MS)
        socket.setsockopt(zmq.SNDHWM, 64)
        socket.setsockopt(zmq.LINGER, 2000)
        return EventSender(self._connect(socket, self._address.events), self.name)

    def _connect(self, socket: zmq.Socket[bytes], endpoint: str) -> zmq.Socket[bytes]:
        if self._address.public_key:
            socket.curve_serverkey = socket.curve_publickey = self._address.public_key.encode()
            socket.curve_secretkey = self._address.secret_key.encode()
        socket.connect(endpoint)
        return socket


class EventSender:
    """The sending end of the event socket. Each thread has its own: ZeroMQ sockets belong to one thread."""

    def __init__(self, socket: zmq.Socket[bytes], name: bytes) -> None:
        self._socket = socket
        self._name = name

    def send(self, event: WorkerEvent) -> None:
        """Send one event. Raises zmq.Again when the app has stopped reading."""
        self._socket.send_multipart([self._name, *wire.encode(event)])

    def close(self) -> None:
        """Deliver what is still under way, then close."""
        self._socket.close()


class ControlThread(threading.Thread):
    """Hears commands while the engine works, and shows that the process is alive."""

    def __init__(self, connection: Wire, parent_pid: int, adjust: Callable[[Adjust], None]) -> None:
        super().__init__(name="control", daemon=True)
        self._adjust = adjust
        self.commands: queue.Queue[Command] = queue.Queue()
        self._wire = connection
        self._guard = OrphanGuard(parent_pid)
        self._stopped_jobs: set[str] = set()
        self._loading: LoadStage | None = None

    def stop_asked(self, job_id: str) -> bool:
        """Return whether the operator stopped this job."""
        return job_id in self._stopped_jobs

    def show_loading(self, stage: LoadStage | None) -> None:
        """Have the app told with the next heartbeat how far loading is."""
        self._loading = stage

    def run(self) -> None:
        """Pass commands on until Shutdown."""
        control = self._wire.connect_control()
        control.send_multipart(
            wire.encode(Hello(pid=os.getpid()))
        )  # this way, so that the answer finds its way
        events = self._wire.connect_events()
        process = psutil.Process()
        next_beat = 0.0
        command: Command | None = None
        while not isinstance(command, Shutdown):
            if time.monotonic() >= next_beat:
                self._guard.check()
                events.send(Heartbeat(rss_bytes=process.memory_info().rss, loading=self._loading))
                next_beat = time.monotonic() + _HEARTBEAT_S
            if not control.poll(200):
                continue
            command = wire.decode(control.recv_multipart())
            if isinstance(command, Stop):
                self._stopped_jobs.add(command.job_id)
            elif isinstance(command, Adjust):
                self._adjust(command)
            else:
                self.commands.put(command)
        control.close()
        events.close()


class Worker:
    """Runs one engine at a time, one job at a time, on the main thread."""

    def __init__(self, run_dir: Path, parent_pid: int, engines: EngineFactories) -> None:
        self._engines = engines
        self._engine: Engine | None = None
        connection = Wire(run_dir)
        self._control = ControlThread(connection, parent_pid, self._adjust)
        self._events = connection.connect_events()
        self._stacks = (run_dir / f"rank-{process_rank()}{STACKS_SUFFIX}").open("w")
        self._install_last_words()

    def run(self) -> None:
        """Serve until told to shut down."""
        self._control.start()
        while True:
            command = self._control.commands.get()
            if isinstance(command, Load):
                self._load(command)
            elif isinstance(command, Generate):
                self._generate(command)
            else:
                break
        if self._engine is not None:
            self._engine.close()
        self._events.close()
        self._control.join(timeout=2)

    def _load(self, command: Load) -> None:
        started = time.monotonic()
        try:
            engine = self._engines[command.plan.engine]()
            measured = engine.load(command.plan, self._control.show_loading)
        except Exception as error:
            log.exception("loading %s failed", command.plan.engine)
            self._events.send(Failed(job_id="", diagnosis=from_exception(error)))
            return
        self._engine = engine
        self._control.show_loading(None)
        load_s = time.monotonic() - started
        log.info("engine %s ready after %.1f s", command.plan.engine, load_s)
        if measured is not None:
            self._events.send(measured)
        self._events.send(Ready(engine=command.plan.engine, load_s=load_s))

    def _adjust(self, wish: Adjust) -> None:
        assert self._engine is not None, "only running jobs are adjusted"
        self._engine.adjust(wish)

    def _generate(self, command: Generate) -> None:
        job_id = command.request.job_id
        assert self._engine is not None, "the supervisor sends Generate only after Ready"
        last: WorkerEvent | None = None
        try:
            for event in self._engine.generate(
                command.request, command.plan, should_stop=lambda: self._control.stop_asked(job_id)
            ):
                last = event
                self._events.send(event)
            assert isinstance(last, TERMINAL_EVENTS) or _is_silent_rank(command.plan), (
                "an engine ends with a terminal event"
            )
        except zmq.Again:
            raise  # nobody listens any more: leave
        except Exception as error:
            log.exception("job %s failed", job_id)
            if not isinstance(last, TERMINAL_EVENTS):
                self._events.send(Failed(job_id=job_id, diagnosis=from_exception(error)))
        measured = self._engine.measure()
        if measured is not None:
            self._events.send(measured)

    def _install_last_words(self) -> None:
        """Tell the app why this process dies, where that is still possible; dump stacks when asked or crashed."""
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)
        standard_hook = sys.excepthook

        def last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            standard_hook(kind, error, trace)
            self._events.send(Failed(job_id="", diagnosis=from_exception(error)))

        sys.excepthook = last_words


def _is_silent_rank(plan: ExecutionPlan) -> bool:
    """Whether another rank, the one that decodes, speaks for the job."""
    return plan.parallel is not None and process_rank() != plan.parallel.decoder_rank

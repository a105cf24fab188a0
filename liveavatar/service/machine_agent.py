"""Takes part in an app that runs on another machine: starts ranks here when told to, and ends them.

When the app is not heard for some seconds, its ranks are ended; when this process dies, so do they.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import time
from pathlib import Path

import zmq

from liveavatar import __version__
from liveavatar.core import wire
from liveavatar.core.launch import Card, MachineState, Wanted
from liveavatar.service.cluster import LOST_S, TELL_S, Endpoint
from liveavatar.service.cluster_key import ClusterKey
from liveavatar.service.failure_folder import new_failure_folder
from liveavatar.service.rank_processes import RankProcesses, address_towards
from liveavatar.service.run_directory import RunDirectory

log = logging.getLogger(__name__)

_WAIT_MS = 100


class MachineAgent:
    """One machine's part. Use it from one thread."""

    def __init__(
        self,
        endpoint: Endpoint,
        key: ClusterKey,
        data_dir: Path,
        *,
        module: str,
        slots: int,
        cards: tuple[Card, ...] = (),
    ) -> None:
        """Connect; that the app is not there yet does no harm."""
        data_dir.mkdir(parents=True, exist_ok=True)
        self._data_dir, self._module, self._slots, self._cards = data_dir, module, slots, cards
        self._address = address_towards(endpoint.host)
        self._name = f"{socket.gethostname()} ({self._address})"
        self._instance = secrets.token_hex(8)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, self._name.encode())
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nobody wants to hear old news
        key.connect(self._socket)
        self._socket.connect(f"tcp://{endpoint}")
        self._processes: RankProcesses | None = None
        self._directory: RunDirectory | None = None
        self._run = ""
        self._heard_at = 0.0
        self._tell_at = 0.0

    def serve(self) -> None:
        """Do what the app wants until interrupted."""
        try:
            while True:
                self.step()
        finally:
            self.close()

    def close(self) -> None:
        """End what runs here and leave."""
        self._end(keeps_stacks=False)
        self._context.destroy(linger=0)

    def step(self) -> None:
        """Wait for a moment, do what is wanted, and say what is here."""
        before = self._state()
        if self._socket.poll(_WAIT_MS):
            try:
                wanted = wire.decode(self._socket.recv_multipart())
            except wire.WireError as error:
                log.error("the app is of another version than %s: %s", __version__, error)
            else:
                self._heard_at = time.monotonic()
                self._follow(wanted)
        now = time.monotonic()
        if self._processes is not None and now - self._heard_at > LOST_S:
            log.warning("the app is not heard any more: its ranks are ended")
            self._end(keeps_stacks=False)
        state = self._state()
        if state != before or now >= self._tell_at:
            self._tell_at = now + TELL_S
            with contextlib.suppress(zmq.Again):  # the app is not there: it will hear the next one
                self._socket.send_multipart(wire.encode(state), zmq.NOBLOCK)

    def _follow(self, wanted: Wanted) -> None:
        if wanted.run == self._run:
            return
        self._end(keeps_stacks=wanted.keeps_stacks)
        if wanted.launch is not None:
            self._run, self._directory = wanted.run, RunDirectory()
            self._processes = RankProcesses(
                self._module, wanted.launch, self._directory.path, self._data_dir / "engine.log"
            )
            log.info("ranks %s started", list(wanted.launch.ranks))

    def _end(self, *, keeps_stacks: bool) -> None:
        if self._processes is None or self._directory is None:
            return
        if keeps_stacks:
            folder = new_failure_folder(self._data_dir / "failures")
            self._processes.dump_stacks(folder)
            log.warning("the engine hung; what its ranks were doing here is kept in %s", folder)
        self._processes.end()
        self._directory.remove()
        self._processes, self._directory, self._run = None, None, ""
        log.info("ranks ended")

    def _state(self) -> MachineState:
        exit_codes = self._processes.exit_codes() if self._processes else {}
        return MachineState(
            name=self._name,
            version=__version__,
            address=self._address,
            instance=self._instance,
            slots=self._slots,
            cards=self._cards,
            run=self._run,
            exit_codes=tuple(exit_codes.items()),
        )

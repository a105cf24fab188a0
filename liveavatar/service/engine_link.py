"""The app's end of the wire to the ranks of one engine: commands out, events in."""

from __future__ import annotations

import time
from collections.abc import Sequence

import zmq

from liveavatar.core import wire
from liveavatar.core.events import Command, WorkerEvent
from liveavatar.core.wire_address import WireAddress


class EngineLink:
    """Two bound sockets; they live as long as one start of the engine, so nothing of an earlier one can arrive."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: WireAddress) -> None:
        self._control: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self._control.bind(address.control)
        self._events: zmq.Socket[bytes] = context.socket(zmq.PULL)
        self._events.bind(address.events)
        self._poller = zmq.Poller()
        self._poller.register(self._control, zmq.POLLIN)
        self._poller.register(self._events, zmq.POLLIN)

    def send(self, ranks: Sequence[int], command: Command) -> None:
        """Send one command to each of `ranks`; a rank that is gone does not get it."""
        frames = wire.encode(command)
        for rank in ranks:
            self._control.send_multipart([f"rank-{rank}".encode(), *frames])

    def receive(self, timeout_s: float) -> list[tuple[int, WorkerEvent]]:
        """Wait for something to be said and return all of it, each with the rank that said it."""
        said: list[tuple[int, WorkerEvent]] = []
        deadline = time.monotonic() + timeout_s
        while ready := self._poller.poll(0 if said else max(0, int(1000 * (deadline - time.monotonic())))):
            for socket, _ in ready:
                name, *frames = socket.recv_multipart()
                said.append((int(name.removeprefix(b"rank-")), wire.decode(frames)))
        return said

    def close(self) -> None:
        """Close both ends."""
        self._control.close(linger=0)
        self._events.close(linger=0)

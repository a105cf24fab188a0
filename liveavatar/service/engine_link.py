"""The app's end of the wire to the ranks of one engine: commands out, events in."""

from __future__ import annotations

import time
from collections.abc import Sequence

import zmq

from liveavatar.core import wire
from liveavatar.core.events import Command, WorkerEvent
from liveavatar.core.wire_address import WireAddress
from liveavatar.service.cluster_key import ClusterKey


class EngineLink:
    """Two bound sockets; they live as long as one start of the engine, so nothing of an earlier one can arrive."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: WireAddress, key: ClusterKey | None = None
    ) -> None:
        """Bind both sockets. `key` is for addresses on a network, where a port `*` means any free one."""
        self._control = _bound(context, zmq.ROUTER, address.control, key)
        self._events = _bound(context, zmq.PULL, address.events, key)
        self.address = WireAddress(
            control=_endpoint(self._control),
            events=_endpoint(self._events),
            public_key=key.public if key else "",
            secret_key=key.secret if key else "",
        )
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


def _bound(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, endpoint: str, key: ClusterKey | None
) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    if key is not None:
        key.serve(socket)
        if kind == zmq.ROUTER:
            socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a rank whose connection broke takes its place again
    socket.bind(endpoint)
    return socket


def _endpoint(socket: zmq.Socket[bytes]) -> str:
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.rstrip(b"\0").decode()

"""The machines that joined the app's own, and the ranks that run there. Used by the job runner's thread."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import zmq

from liveavatar import __version__
from liveavatar.core import wire
from liveavatar.core.errors import Diagnosis, LiveAvatarError
from liveavatar.core.launch import Launch, MachineState, Wanted
from liveavatar.service.cluster_key import ClusterKey, Gate

log = logging.getLogger(__name__)

TELL_S = 0.5  # from one message to the next, both ways
LOST_S = 5.0  # of silence, after which a machine counts as gone
_END_S = 2.0
_WAIT_S = 0.05


@dataclass(frozen=True)
class Endpoint:
    """An address of the app's machine that the others reach."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read "10.0.0.1:29400". Raises ValueError."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"an endpoint is written HOST:PORT, got {text!r}")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(kw_only=True)
class _Member:
    state: MachineState
    heard_at: float
    wanted: Wanted


class Cluster:
    """Listens for machines. They join and leave as they like; what runs there is ended when they are not heard."""

    def __init__(self, endpoint: Endpoint, key: ClusterKey, *, own_slots: int) -> None:
        """Listen at once. Raises zmq.ZMQError when the address is not ours or is taken."""
        self.endpoint, self.key, self.own_slots = endpoint, key, own_slots
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self.context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a machine that comes back takes its place
        key.serve(self._socket)
        self._gate = Gate(self.context, key)
        try:
            self._socket.bind(f"tcp://{endpoint}")
        except zmq.ZMQError:
            self.close()
            raise
        self._members: dict[bytes, _Member] = {}
        self._tell_at = 0.0
        self.machines: tuple[MachineState, ...] = ()  # those heard lately, by name; may be read by any thread

    def poll(self, timeout_s: float = 0.0) -> None:
        """Hear what the machines say, and tell them what is wanted when it is time."""
        while self._socket.poll(int(1000 * timeout_s)):
            identity, *frames = self._socket.recv_multipart()
            try:
                self._hear(identity, wire.decode(frames))
            except wire.WireError as error:
                log.warning("the machine %r is of another version than %s: %s", identity, __version__, error)
            timeout_s = 0.0
        now = time.monotonic()
        for identity in [name for name, member in self._members.items() if now - member.heard_at > LOST_S]:
            log.warning("the machine %s is not heard any more", self._members.pop(identity).state.name)
        self.machines = tuple(
            sorted((member.state for member in self._members.values()), key=lambda state: state.name)
        )
        if now >= self._tell_at:
            self._tell_at = now + TELL_S
            for identity in self._members:
                self._tell(identity)

    def start(self, name: str, launch: Launch, run: str) -> None:
        """Have ranks started on a machine."""
        self._want(name, Wanted(run=run, launch=launch))

    def end(self, name: str, *, keeps_stacks: bool = False) -> None:
        """Have the ranks of a machine ended."""
        self._want(name, Wanted(run="", keeps_stacks=keeps_stacks))

    def state(self, name: str) -> MachineState | None:
        """Return what the machine said last, None when it is not heard any more."""
        return next((member.state for member in self._members.values() if member.state.name == name), None)

    def close(self) -> None:
        """Stop listening; the machines end what still runs there."""
        self._gate.close()
        self.context.destroy(linger=0)

    def _hear(self, identity: bytes, state: MachineState) -> None:
        if state.version != __version__:
            raise wire.WireError(f"it has {state.version}")
        member = self._members.get(identity)
        if member is None or member.state.instance != state.instance:
            log.info("the machine %s joined: %d ranks", state.name, state.slots)
            self._members[identity] = _Member(state=state, heard_at=time.monotonic(), wanted=Wanted(run=""))
            return
        member.state, member.heard_at = state, time.monotonic()

    def _want(self, name: str, wanted: Wanted) -> None:
        for identity, member in self._members.items():
            if member.state.name == name:
                member.wanted = wanted
                self._tell(identity)

    def _tell(self, identity: bytes) -> None:
        self._socket.send_multipart([identity, *wire.encode(self._members[identity].wanted)])


def open_cluster(endpoint: str, token_file: Path, *, own_slots: int) -> Cluster:
    """Return a cluster that listens, with a token of its own making at first. Raises LiveAvatarError."""
    key = ClusterKey.from_own_file(token_file)
    try:
        return Cluster(Endpoint.parse(endpoint), key, own_slots=own_slots)
    except zmq.ZMQError as error:
        raise LiveAvatarError(
            Diagnosis(
                code="endpoint_unusable",
                title=f"Other machines cannot be listened for at {endpoint}.",
                cause=f"The system says: {error}.",
                remedy="Choose an address of this machine and a free port with --rdzv-endpoint HOST:PORT.",
                facts={"endpoint": endpoint, "reason": str(error)},
            )
        ) from error


class RemoteRanks:
    """The ranks of one run on another machine: the counterpart of RankProcesses."""

    pids: tuple[int, ...] = ()  # none on this machine

    def __init__(self, cluster: Cluster, name: str, launch: Launch) -> None:
        self._cluster, self._name, self._launch = cluster, name, launch
        self._run = secrets.token_hex(8)
        state = cluster.state(name)
        self._instance = state.instance if state is not None else ""
        self._was_seen = self._is_lost = False
        self._keeps_stacks = False
        cluster.start(name, launch, self._run)

    def exit_codes(self) -> dict[int, int]:
        """Return how each rank ended that is not there any more."""
        state = self._cluster.state(self._name)
        return dict(state.exit_codes) if state is not None and state.run == self._run else {}

    def loss(self) -> dict[int, Diagnosis]:
        """Return why the machine's ranks cannot be counted on any more, the same for each of them.

        A machine that comes back does not bring them back.
        """
        state = self._cluster.state(self._name)
        runs_it = state is not None and state.run == self._run
        self._is_lost |= state is None or state.instance != self._instance or (self._was_seen and not runs_it)
        self._was_seen |= runs_it
        return dict.fromkeys(self._launch.ranks, _machine_lost(self._name)) if self._is_lost else {}

    def wait(self, timeout_s: float) -> bool:
        """Return whether all ranks left by themselves in time."""
        deadline = time.monotonic() + timeout_s
        while len(self.exit_codes()) < self._launch.num_ranks and not self.loss():
            if time.monotonic() > deadline:
                return False
            self._cluster.poll(_WAIT_S)
        return True

    def dump_stacks(self, folder: Path) -> None:
        """Have the machine keep what its ranks are doing in a folder of its own, when they are ended."""
        self._keeps_stacks = True

    def end(self) -> None:
        """Have the ranks killed, and wait until they are."""
        self._cluster.end(self._name, keeps_stacks=self._keeps_stacks)
        deadline = time.monotonic() + _END_S
        while (state := self._cluster.state(self._name)) and state.run == self._run:
            if time.monotonic() > deadline:
                log.warning("the machine %s does not confirm that its ranks ended", self._name)
                return
            self._cluster.poll(_WAIT_S)


def _machine_lost(name: str) -> Diagnosis:
    return Diagnosis(
        code="machine_lost",
        title="A machine that took part is gone.",
        cause=f"Nothing was heard from “{name}” for {LOST_S:.0f} seconds, or its part was started anew.",
        remedy="Look whether it runs and is reachable; without it, the next video is made by the other machines.",
        facts={"machine": name, "seconds": round(LOST_S)},
    )

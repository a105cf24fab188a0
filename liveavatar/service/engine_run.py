"""One start of the engine: its run directory, its sockets and the processes of all its ranks."""

from __future__ import annotations

import dataclasses
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import zmq

from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.events import (
    Command,
    EngineEvent,
    Failed,
    Heartbeat,
    Hello,
    LoadStage,
    Ready,
    Shutdown,
)
from liveavatar.core.launch import Launch
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.wire_address import WireAddress
from liveavatar.diagnostics.diagnose import machines_too_few
from liveavatar.diagnostics.first_failure import RankState, all_accounted_for, is_cause_known
from liveavatar.diagnostics.torch_errors import from_torch_log
from liveavatar.planning.placement import place_ranks
from liveavatar.service.cluster import Cluster, RemoteRanks
from liveavatar.service.engine_link import EngineLink
from liveavatar.service.rank_processes import RankProcesses
from liveavatar.service.run_directory import RunDirectory

# After the first sign of trouble: causes are told at once; the end of a process that held much graphics memory
# may show only after its peers have complained.
_LAST_WORDS_S, _LONGEST_LAST_WORDS_S = 0.3, 1.2


class EngineRun:
    """The ranks of one plan, from their first process to their last. Nothing of one run reaches the next."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        module: str,
        log_path: Path,
        plan: ExecutionPlan,
        cluster: Cluster | None = None,
    ) -> None:
        """Start all ranks, on this machine and on those of `cluster`. Raises EngineFailed when there are too few."""
        self.plan = plan
        self.world_size = plan.parallel.world_size if plan.parallel else 1
        self.speaker = plan.parallel.decoder_rank if plan.parallel else 0  # whose events are the job's
        self._ranks = range(self.world_size)
        self._cluster = cluster
        counts = _ranks_by_machine(plan, cluster)
        self._directory = RunDirectory()
        self._log_path = log_path
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        is_here_alone = not any(counts)
        self._link = (
            EngineLink(context, WireAddress.in_directory(self._directory.path))
            if cluster is None or is_here_alone
            else EngineLink(context, WireAddress.on_network(cluster.endpoint.host), cluster.key)
        )
        self._parts: list[RankProcesses | RemoteRanks] = []
        launch = Launch(
            first_rank=0,
            num_ranks=0,
            world_size=self.world_size,
            store_host="127.0.0.1" if is_here_alone else _address(next(iter(counts)), cluster),
            store_port=free_port(),
            wire=self._link.address,
        )
        for machine, num_ranks in counts.items():
            launch = dataclasses.replace(
                launch, first_rank=launch.first_rank + launch.num_ranks, num_ranks=num_ranks
            )
            launch = dataclasses.replace(launch, cards=_cards(plan, launch.ranks))
            self._parts.append(
                RankProcesses(module, launch, self._directory.path, log_path)
                if not machine or cluster is None
                else RemoteRanks(cluster, machine, launch)
            )
        self._last_heard = dict.fromkeys(self._ranks, time.monotonic())
        self._last_words: dict[int, Diagnosis] = {}
        self._rss_bytes = dict.fromkeys(self._ranks, 0)
        self.loading: LoadStage | None = None  # what the rank heard last is at

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the process ids on this machine."""
        return tuple(pid for part in self._parts for pid in part.pids)

    @property
    def rss_bytes(self) -> int:
        """Return the host memory of all ranks, as they told it last."""
        return sum(self._rss_bytes.values())

    def send(self, command: Command, rank: int | None = None) -> None:
        """Send a command to one rank, or to all."""
        self._link.send(self._ranks if rank is None else [rank], command)

    def receive(self, timeout_s: float) -> list[tuple[int, Hello | Ready | EngineEvent]]:
        """Wait for something to be said and return it, less what is noted here: heartbeats and last words."""
        rest: list[tuple[int, Hello | Ready | EngineEvent]] = []
        said = self._link.receive(timeout_s)
        if self._cluster is not None:
            self._cluster.poll()
        for rank, event in said:
            self._last_heard[rank] = time.monotonic()
            if isinstance(event, Heartbeat):
                self._rss_bytes[rank] = event.rss_bytes
                self.loading = event.loading
            elif isinstance(event, Failed) and self._ends_engine(event):
                self._last_words.setdefault(rank, event.diagnosis)
            else:
                rest.append((rank, event))
        return rest

    def has_failed(self) -> bool:
        """Whether a rank is gone or said that it cannot go on."""
        return bool(self._last_words) or any(part.exit_codes() or part.loss() for part in self._parts)

    def longest_silence_s(self) -> float:
        """Return how long the quietest rank has not been heard."""
        return time.monotonic() - min(self._last_heard.values())

    def states(self) -> list[RankState]:
        """Return what is known of every rank."""
        now = time.monotonic()
        exit_codes = {rank: code for part in self._parts for rank, code in part.exit_codes().items()}
        last_words = {rank: words for part in self._parts for rank, words in part.loss().items()}
        last_words |= self._last_words
        for rank in exit_codes.keys() - last_words.keys():
            if exit_codes[rank] == -signal.SIGABRT and (words := from_torch_log(self._log(), rank)):
                last_words[rank] = words
        return [
            RankState(
                rank=rank,
                last_words=last_words.get(rank),
                exit_code=exit_codes.get(rank),
                silent_s=now - self._last_heard[rank],
            )
            for rank in self._ranks
        ]

    def hear_last_words(self) -> list[tuple[int, Hello | Ready | EngineEvent]]:
        """Listen for a moment after the first sign of trouble; return what was said besides."""
        rest: list[tuple[int, Hello | Ready | EngineEvent]] = []
        started = time.monotonic()
        waited_s = 0.0
        while waited_s < _LONGEST_LAST_WORDS_S:
            rest += self.receive(0.1)
            waited_s = time.monotonic() - started
            states = self.states()
            if all_accounted_for(states) or (waited_s > _LAST_WORDS_S and is_cause_known(states)):
                break
        return rest

    def _log(self) -> str:
        """Return what this run wrote."""
        with self._log_path.open("rb") as log_file:
            log_file.seek(self._log_start)
            return log_file.read().decode(errors="replace")

    def dump_stacks(self, folder: Path) -> None:
        """Put what every rank is doing into `folder`."""
        for part in self._parts:
            part.dump_stacks(folder)

    def leave(self, timeout_s: float) -> bool:
        """Ask all ranks to leave in good order; return whether they did in time."""
        self.send(Shutdown())
        deadline = time.monotonic() + timeout_s
        return all(part.wait(max(0.0, deadline - time.monotonic())) for part in self._parts)

    def end(self) -> None:
        """Kill what is left and remove the run directory. The run is not used again."""
        for part in self._parts:
            part.end()
        self._link.close()
        self._directory.remove()

    def _ends_engine(self, failure: Failed) -> bool:
        """Whether this is more than the end of a job: peers of a rank that failed wait for it in vain."""
        return not failure.job_id or self.world_size > 1


def free_port() -> int:
    """Return a port nobody uses now. Should somebody take it before rank 0 does, the run fails as `port_taken`."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


def _ranks_by_machine(plan: ExecutionPlan, cluster: Cluster | None) -> dict[str, int]:
    """Return how many ranks each machine takes, in the order of ranks, by name; "" is this machine.

    A plan for certain cards says where they are. Raises EngineFailed when a machine is missing.
    """
    if plan.parallel is None:
        return {"": 1}
    machines = cluster.machines if cluster else ()
    names = ["", *(machine.name for machine in machines)]
    if plan.budgets:
        counts = dict(Counter(budget.machine for budget in plan.budgets))
        is_complete = counts.keys() <= set(names)
    else:
        slots = [cluster.own_slots if cluster else plan.parallel.world_size]
        places = place_ranks(plan.parallel, [*slots, *(machine.slots for machine in machines)])
        counts = {name: count for name, count in zip(names, places or (), strict=False) if count}
        is_complete = places is not None
    if not is_complete:
        raise EngineFailed(machines_too_few(plan.parallel, len(names)))
    return counts


def _cards(plan: ExecutionPlan, ranks: range) -> tuple[str, ...]:
    """Return the card of each of the ranks, nothing where one is not known or none was planned with."""
    cards = tuple(budget.card for budget in plan.budgets if budget.rank in ranks)
    return cards if all(cards) else ()


def _address(machine: str, cluster: Cluster | None) -> str:
    """Return where the other machines reach this one, or the one of that name."""
    assert cluster is not None, "only machines that joined have names"
    state = cluster.state(machine)
    return state.address if state is not None else cluster.endpoint.host

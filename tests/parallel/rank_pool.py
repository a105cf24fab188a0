"""A few processes that become the ranks of one plan after another."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from tests.free_port import free_port

_ANSWER_S = 200.0  # seconds on an idle machine; a rank that hangs reports its own deadline before


class RankPool:
    """Calls a function on some ranks at a time; use as a context manager.

    On a processor they are forked from one that has imported torch once. CUDA does not survive a fork once a module
    has asked for cards, as diffusers does; with `on_cards` each process imports by itself.
    """

    def __init__(self, num_processes: int, *, on_cards: bool = False) -> None:
        self._num_processes, self._on_cards = num_processes, on_cards
        self.answer_s = _ANSWER_S  # how long ranks may take; may be changed between calls

    def __enter__(self) -> RankPool:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _start(self) -> None:
        context: Any = multiprocessing.get_context("spawn" if self._on_cards else "forkserver")
        if not self._on_cards:
            context.set_forkserver_preload(["tests.parallel.plan_run"])
        pipes = [context.Pipe() for _ in range(self._num_processes)]
        self._connections = [ours for ours, _ in pipes]
        self._processes = [context.Process(target=_serve, args=(theirs,), daemon=True) for _, theirs in pipes]
        for process in self._processes:
            process.start()

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.join(10)

    def call(self, function: Callable[..., Any], num_ranks: int, **arguments: Any) -> list[Any]:
        """Return what each rank returned. `function` lives in a module and takes the arguments by name.

        Raises RuntimeError with a rank's traceback, AssertionError when a rank does not answer in time; the next
        call has new processes.
        """
        try:
            return self._call(function, num_ranks, arguments)
        except BaseException:
            self._end()
            self._start()
            raise

    def _call(self, function: Callable[..., Any], num_ranks: int, arguments: dict[str, Any]) -> list[Any]:
        port = free_port()
        connections: list[Connection] = self._connections[:num_ranks]
        for rank, connection in enumerate(connections):
            connection.send((function, rank, num_ranks, port, arguments))
        answers: dict[int, Any] = {}
        while len(answers) < num_ranks:
            open_connections = [c for rank, c in enumerate(connections) if rank not in answers]
            ready = wait(open_connections, timeout=self.answer_s)
            assert ready, f"only ranks {sorted(answers)} of {num_ranks} answered within {self.answer_s:.0f} s"
            for answering in ready:
                assert isinstance(answering, Connection), "only connections are waited for"
                is_fine, answer = pickle.loads(answering.recv())
                if not is_fine:
                    raise RuntimeError(answer)
                answers[connections.index(answering)] = answer
        return [answers[rank] for rank in range(num_ranks)]


def _serve(connection: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        function, rank, num_ranks, port, arguments = connection.recv()
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(num_ranks),
            "LOCAL_WORLD_SIZE": str(num_ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        try:
            answer = (True, function(**arguments))
        except Exception:  # noqa: BLE001  # told to the test
            answer = (False, f"rank {rank}:\n{traceback.format_exc()}")
        connection.send(pickle.dumps(answer))  # first: a rank whose peers are gone may wait while it leaves
        if dist.is_initialized():
            dist.destroy_process_group()

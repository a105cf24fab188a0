"""A worker whose engine is a chain of ranks that pass blocks on, and misbehave when told to.

The first rank decides when to stop, the last one encodes. A fault is "ACTION@RANK:WHEN" in the prompt, WHEN being the
number of a block; or in FAKE_FAULT, WHEN being "load" or "close". Blocks travel through socket files; with FAKE_LINK
"tcp" from the first of two ranks to the second over the network; with "gloo" through torch, which takes seconds to
import.
"""

from __future__ import annotations

import importlib
import os
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from liveavatar.config import process_rank
from liveavatar.core.engine import OnLoadStage, not_shown
from liveavatar.core.events import Cancelled, Chunk, EngineEvent, Finished, Progress
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import AUDIO_RATE, ValidatedRequest
from liveavatar.worker.serve import Worker

BLOCK_FRAMES = 10
_NUM_BYTES = 65_536  # of a block; the sockets' buffers hold a few, as in a real pipeline
_STOP, _GO = 1, 0


class OutOfMemoryError(RuntimeError):
    """Named and worded as torch's."""


class Link(Protocol):
    """A chain of ranks."""

    def send(self, block: bytes) -> None: ...
    def receive(self) -> bytes: ...


class SocketLink:
    """Connections from rank to rank; a dead peer shows as a closed connection, like gloo's."""

    def __init__(self) -> None:
        self._next = self._previous = socket.socket()

    @classmethod
    def through_files(cls, run_dir: Path, rank: int, world_size: int) -> SocketLink:
        """Link any number of ranks on one machine."""
        link = cls()
        with socket.socket(socket.AF_UNIX) as listener:
            if rank > 0:
                listener.bind(str(run_dir / f"link-{rank}"))
                listener.listen()
            if rank + 1 < world_size:
                link._next = _connect(socket.AF_UNIX, str(run_dir / f"link-{rank + 1}"))
            if rank > 0:
                link._previous, _ = listener.accept()
        return link

    @classmethod
    def through_store_port(cls, rank: int) -> SocketLink:
        """Link two ranks, the first of which listens where torch.distributed would."""
        link = cls()
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        if rank == 0:
            with socket.create_server(address) as listener:
                link._next, _ = listener.accept()
        else:
            link._previous = _connect(socket.AF_INET, address)
        return link

    def send(self, block: bytes) -> None:
        self._next.sendall(block)

    def receive(self) -> bytes:
        received = b""
        while len(received) < _NUM_BYTES:
            part = self._previous.recv(_NUM_BYTES - len(received))
            if not part:
                raise ConnectionError("Connection closed by peer")
            received += part
        return received


class GlooLink:
    """torch.distributed between the ranks that the environment tells of."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s` is for a block; to meet there is more time, because importing torch takes long."""
        from datetime import timedelta

        import torch
        import torch.distributed as dist

        self._torch = torch
        rank, world_size = process_rank(), int(os.environ["WORLD_SIZE"])
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, world_size, is_master=rank == 0, timeout=timedelta(seconds=60))
        dist.init_process_group(
            "gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s)
        )

    def send(self, block: bytes) -> None:
        tensor = self._torch.frombuffer(bytearray(block), dtype=self._torch.uint8)
        self._torch.distributed.send(tensor, process_rank() + 1)

    def receive(self) -> bytes:
        tensor = self._torch.empty(_NUM_BYTES, dtype=self._torch.uint8)
        self._torch.distributed.recv(tensor, process_rank() - 1)
        return bytes(tensor.numpy())


class ChainEngine:
    """Sends a moving grey ramp once every rank has passed the block on."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._rank = process_rank()

    def load(self, plan: ExecutionPlan, on_stage: OnLoadStage = not_shown) -> None:
        assert plan.parallel is not None
        _misbehave(os.environ.get("FAKE_FAULT", ""), self._rank, "load")
        self._last_rank = plan.parallel.world_size - 1
        if self._rank == self._last_rank:
            importlib.import_module("liveavatar.media.encoder")
        kind = os.environ.get("FAKE_LINK")
        self._link: Link
        if kind == "gloo":
            self._link = GlooLink(float(os.environ["FAKE_TIMEOUT_S"]))
        elif kind == "tcp":
            self._link = SocketLink.through_store_port(self._rank)
        else:
            self._link = SocketLink.through_files(self._run_dir, self._rank, plan.parallel.world_size)

    def generate(
        self, request: ValidatedRequest, plan: ExecutionPlan, *, should_stop: Callable[[], bool]
    ) -> Iterator[EngineEvent]:
        num_blocks = round(request.audio_seconds * 25) // BLOCK_FRAMES
        blocks = self._blocks(request.prompt, num_blocks, should_stop)
        if self._rank == self._last_rank:
            yield from _encode(blocks, request, plan, num_blocks * BLOCK_FRAMES)
        else:
            for is_stop in blocks:
                self._link.send(bytes([_STOP if is_stop else _GO]) * _NUM_BYTES)

    def measure(self) -> None:
        """Nothing is measured."""

    def close(self) -> None:
        _misbehave(os.environ.get("FAKE_FAULT", ""), self._rank, "close")

    def _blocks(self, prompt: str, num_blocks: int, should_stop: Callable[[], bool]) -> Iterator[bool]:
        """Yield False for each block of the job, or True once in place of the next when it is stopped."""
        for index in range(num_blocks):
            is_stop = should_stop() if self._rank == 0 else self._link.receive()[0] == _STOP
            _misbehave(prompt, self._rank, str(index))
            yield is_stop
            if is_stop:
                return


def _encode(
    blocks: Iterator[bool], request: ValidatedRequest, plan: ExecutionPlan, num_frames: int
) -> Iterator[EngineEvent]:
    import numpy as np

    from liveavatar.media.encoder import StreamEncoder

    job_id, done = request.job_id, 0
    encoder = StreamEncoder(plan.width, plan.height)
    for is_stop in blocks:
        if is_stop:
            yield Chunk(job_id=job_id, data=encoder.finish(), frames_done=done)
            yield Cancelled(job_id=job_id)
            return
        frames = [
            np.full((plan.height, plan.width, 3), index, np.uint8)
            for index in range(done, done + BLOCK_FRAMES)
        ]
        done += BLOCK_FRAMES
        data = encoder.encode(frames, np.zeros(BLOCK_FRAMES * AUDIO_RATE // 25, np.int16))
        yield Progress(job_id=job_id, stage="generating", frames_done=done, num_frames=num_frames)
        yield Chunk(job_id=job_id, data=data, frames_done=done)
    yield Chunk(job_id=job_id, data=encoder.finish(), frames_done=done)
    yield Finished(job_id=job_id, num_frames=done)


def _misbehave(text: str, rank: int, when: str) -> None:
    for action, fault_rank, fault_when in re.findall(r"([a-z-]+)@(\d+):(\w+)", text):
        if int(fault_rank) == rank and fault_when in (when, "all"):
            _ACTIONS[action]()


def _raise_error() -> None:
    raise RuntimeError("the rank was told to raise")


def _raise_out_of_memory() -> None:
    raise OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.5 GiB"
    )


def _hang_in_nccl() -> None:
    """Hang where torch's monitor of NCCL would still write its record when its pipe is written to.

    Torch names both after the process's rank in its first group of cards; ranks 0 and 1 may have groups of their own.
    """
    stem, rank_in_group = os.environ["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"], "0"
    os.mkfifo(f"{stem}{rank_in_group}.pipe")
    pipe = os.open(f"{stem}{rank_in_group}.pipe", os.O_RDONLY | os.O_NONBLOCK)
    while not select.select([pipe], [], [], 0.1)[0] or not os.read(pipe, 1):
        pass
    record = f"SEND 7, RECV 6 of rank {os.environ['RANK']}"
    Path(os.environ["TORCH_FR_DUMP_TEMP_FILE"] + rank_in_group).write_text(record)
    signal.pause()


def _abort_like_torch() -> None:
    """Die as a thread of torch does that met an error of the card: no exception reaches Python."""
    sys.stderr.write(
        f"[rank{os.environ['RANK']}]:[E ProcessGroupNCCL.cpp:2068] CUDA error: illegal memory access\n"
    )
    sys.stderr.flush()
    os.abort()


_ACTIONS: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crash": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "freeze": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "exit": lambda: os._exit(3),
    "hang": signal.pause,
    "hang-in-nccl": _hang_in_nccl,
    "raise": _raise_error,
    "oom": _raise_out_of_memory,
    "abort": _abort_like_torch,
    "slow": lambda: time.sleep(0.1),
}


def _connect(family: int, address: str | tuple[str, int]) -> socket.socket:
    while True:  # the supervisor has the deadline
        peer = socket.socket(family)
        try:
            peer.connect(address)
            return peer
        except (FileNotFoundError, ConnectionRefusedError):
            peer.close()
            time.sleep(0.02)


if __name__ == "__main__":
    Worker(Path(sys.argv[1]), int(sys.argv[2]), {"s2v": lambda: ChainEngine(Path(sys.argv[1]))}).run()

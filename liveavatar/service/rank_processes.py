"""The ranks of an engine on this machine: one process each, children of this one, ended together.

They are started directly and not through torchrun, which gives the other ranks half a minute to leave when one dies
and leaves them behind when it is killed itself; docs/multi-gpu.md has the whole comparison.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from liveavatar.core.errors import Diagnosis
from liveavatar.core.launch import Launch
from liveavatar.core.wire_address import STACKS_SUFFIX

log = logging.getLogger(__name__)

_IMPORT_ROOT = str(Path(__file__).parents[2])  # the app may have been started from any folder
# What NCCL was asked for and did. Torch appends the process's rank within its first group of cards. Processes of other
# groups have the same one, so each process has a name of its own: flight_recorder_rank_2_0.
_FLIGHT_RECORDER = "flight_recorder_rank_"
_REAP_S = 30.0
_STACKS_S, _RECORDS_S = 0.4, 3.0
_POLL_S = 0.02


class RankProcesses:
    """Consecutive ranks in process groups of their own, so that the whole of each can be ended."""

    def __init__(self, module: str, launch: Launch, run_dir: Path, log_path: Path) -> None:
        """Start them. They inherit this process's environment, write to `log_path`, and die with this thread."""
        self._run_dir = run_dir
        launch.wire.write(run_dir)
        with log_path.open("ab") as log_file:
            self._processes = {
                rank: subprocess.Popen(
                    [sys.executable, "-m", module, str(run_dir), str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=log_file,
                    stderr=log_file,
                    env=dict(os.environ) | _environment(launch, rank, run_dir),
                    start_new_session=True,
                )
                for rank in launch.ranks
            }

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the process ids in the order of ranks."""
        return tuple(process.pid for process in self._processes.values())

    def exit_codes(self) -> dict[int, int]:
        """Return how each rank ended that is not there any more. Negative codes are signals."""
        codes = {rank: process.poll() for rank, process in self._processes.items()}
        return {rank: code for rank, code in codes.items() if code is not None}

    def loss(self) -> dict[int, Diagnosis]:
        """Return nothing: this machine is there."""
        return {}

    def wait(self, timeout_s: float) -> bool:
        """Return whether all ranks left by themselves in time."""
        deadline = time.monotonic() + timeout_s
        while len(self.exit_codes()) < len(self._processes):
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def dump_stacks(self, folder: Path) -> None:
        """Have every rank write down where each of its threads is, and put the files into `folder`."""
        records = []
        for rank, process in self._processes.items():
            process.send_signal(signal.SIGUSR1)  # the worker has faulthandler listen to it
            # Torch makes the pipe when it uses NCCL, and looks into it once a second.
            for pipe in self._run_dir.glob(f"{_FLIGHT_RECORDER}{rank}_*.pipe"):
                with (
                    contextlib.suppress(OSError),
                    os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb") as fifo,
                ):
                    fifo.write(b"1")
                    records.append(pipe.with_suffix(""))
        started = time.monotonic()
        while time.monotonic() - started < _STACKS_S or (
            time.monotonic() - started < _RECORDS_S and not all(record.exists() for record in records)
        ):
            time.sleep(_POLL_S)
        folder.mkdir(parents=True, exist_ok=True)
        for path in self._run_dir.iterdir():
            if path.is_file() and path.name.endswith(STACKS_SUFFIX):
                shutil.copy(path, folder)
            elif path.is_file() and path.name.startswith(_FLIGHT_RECORDER):
                shutil.copy(path, folder / path.name.rpartition("_")[0])  # as torch's tools expect it

    def end(self) -> None:
        """Kill what is left of every rank and of what it started, and wait until it has given its memory back.

        That takes the kernel many seconds where it was tens of gigabytes, and for ever where a driver hangs: then the
        process is left behind.
        """
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):  # the whole group has left already
                os.killpg(process.pid, signal.SIGKILL)
        if not self.wait(_REAP_S):
            still_there = sorted(set(self._processes) - set(self.exit_codes()))
            log.warning(
                "killed ranks %s are still there after %.0f s, with their memory", still_there, _REAP_S
            )


def _environment(launch: Launch, rank: int, run_dir: Path) -> dict[str, str]:
    """Return the variables by which a rank knows its place among the others, its card, and how to use memory."""
    local_rank = rank - launch.first_rank
    variables = {
        "PYTHONPATH": os.pathsep.join([_IMPORT_ROOT, os.environ.get("PYTHONPATH", "")]),
        "RANK": str(rank),
        "WORLD_SIZE": str(launch.world_size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(launch.num_ranks),
    }
    if launch.cards:
        own = launch.cards[local_rank]
        # A program sees one slice of a divided card (MIG) at most.
        cards = [own] if own.startswith("MIG-") else launch.cards
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(cards)
    if launch.world_size > 1:
        variables |= {
            "MASTER_ADDR": launch.store_host,
            "MASTER_PORT": str(launch.store_port),
            "TORCH_FR_DUMP_TEMP_FILE": str(run_dir / f"{_FLIGHT_RECORDER}{rank}_"),
            "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(run_dir / f"{_FLIGHT_RECORDER}{rank}_"),
        }
    defaults = _defaults(launch)
    return variables | {name: value for name, value in defaults.items() if name not in os.environ}


def _defaults(launch: Launch) -> dict[str, str]:
    """Return variables that the operator's own values take precedence over."""
    defaults = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # cards are counted as nvidia-smi and the planner do
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # its older name
        defaults["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"  # sizes change from video to video
    if launch.num_ranks < launch.world_size:
        interface = _interface_towards(launch.store_host)
        defaults |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    if launch.world_size > 1:  # otherwise each rank would take all processors
        defaults["OMP_NUM_THREADS"] = str(max(1, _num_processors() // launch.num_ranks))
    return defaults


def _num_processors() -> int:
    """Return how many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def address_towards(host: str) -> str:
    """Return this machine's own address on the way to `host`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 1))  # nothing is sent
        address: str = probe.getsockname()[0]
        return address


def _interface_towards(host: str) -> str:
    """Return the network interface on the way to `host`; gloo and NCCL would guess another one."""
    own = address_towards(host)
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            return str(name)
    raise OSError(f"no network interface has the address {own}, from which {host} is reached")

"""Time and energy of exact bfloat16 attention at the model's sizes on a Hopper card: cuDNN, flash, the own kernel.

    python -m benchmarks.attention_bf16 --out result.json

Every finished part is printed as one line of JSON. The kernel comes in several tilings. Each is compiled and checked
in a process of its own first, all at the same time: one that fails or hangs is reported, and the others are timed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.attention_int8 import (
    HEAD_DIM,
    HEADS,
    SIZES,
    Report,
    describe_machine,
    milliseconds,
    name_of,
    rate,
)
from benchmarks.difference import relative_rms
from liveavatar.models.s2v.attention import cudnn_attention, flash_attention
from liveavatar.models.s2v.hopper import why_unsuitable

# Keys of a tile, stages, whether consumers take turns, whether the last round is split: arguments of launch.Tiling.
TILINGS = (
    (128, 2, False, False),
    (128, 3, False, False),
    (128, 3, True, False),
    (128, 3, False, True),
    (128, 3, True, True),
    (64, 6, True, False),
)
CHECKED_SIZES = ((3168, 15312), (300, 1799), (129, 1151), (64, 100))
CHECKED_HEADS = 2
CHECK_DEADLINE_S = 60
TIMING_DEADLINE_S = 60  # a kernel that waits for ever is ended
SUSTAINED_S, CALLS_AT_ONCE = 0.7, 40

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # [1, L, H, K], [1, T, H, K] twice -> [1, L, H, K]


def main() -> None:
    """Check all tilings, then time all kernels; or check one tiling, as the process started for it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--check", metavar="KEYS,STAGES,TURNS,SPLIT", help="print the errors of one tiling and end"
    )
    options = parser.parse_args()
    reason = why_unsuitable(device=_device(), dtype=torch.bfloat16, head_dim=HEAD_DIM)
    if reason is not None:
        parser.exit(1, f"Nothing to measure: {reason}.\n")
    if options.check:
        print(json.dumps(check(tiled(tuple(map(int, options.check.split(",")))))))
        return
    report = Report(options.out)
    report.run("machine", describe_machine)
    kernels: dict[str, Kernel] = {"cuDNN": cudnn_attention, "flash": flash_attention}
    kernels |= working_tilings(report)
    faulthandler.dump_traceback_later(TIMING_DEADLINE_S, exit=True)
    for size in SIZES:
        for name, kernel in kernels.items():
            report.run(f"{name} {name_of(size)}", time_kernel, kernel, *size)
    for name, kernel in kernels.items():
        report.run(f"{name} sustained {name_of(SIZES[0])}", sustain, kernel, *SIZES[0])
    faulthandler.cancel_dump_traceback_later()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tiled(tiling: tuple[int, ...]) -> Kernel:
    """Return this project's kernel in one tiling."""
    from liveavatar.models.s2v.hopper_attention import launch

    keys, stages, turns, split = tiling
    chosen = launch.Tiling(keys, stages, bool(turns), bool(split))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return launch.attend(q[0], k[0], v[0], chosen)[None]

    return attend


# ---------------------------------------------------------------------------------------------- right or wrong


def working_tilings(report: Report) -> dict[str, Kernel]:
    """Return the tilings that give right results, all tried side by side."""
    with ThreadPoolExecutor() as pool:
        outcomes = {tiling: pool.submit(_check_apart, tiling) for tiling in TILINGS}
    working = {}
    for tiling, outcome in outcomes.items():
        options = [word for word, is_on in zip(("turns", "split"), tiling[2:], strict=True) if is_on]
        name = ", ".join([f"own {tiling[0]} keys", f"{tiling[1]} stages", *options])
        report.run(f"check {name}", outcome.result)
        if outcome.exception() is None and outcome.result()["right"]:
            working[name] = tiled(tiling)
    return working


def _check_apart(tiling: tuple[int, ...]) -> dict[str, Any]:
    """Check a tiling in another process. Raises RuntimeError or TimeoutExpired when that fails or hangs."""
    argument = ",".join(str(int(part)) for part in tiling)
    command = [sys.executable, "-m", "benchmarks.attention_bf16", "--check", argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_DEADLINE_S, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:] or f"exit status {done.returncode}")
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


def check(kernel: Kernel) -> dict[str, Any]:
    """Return the relative errors against float64, beside cuDNN's."""
    started = time.perf_counter()
    outcome: dict[str, Any] = {"right": True}
    for size in CHECKED_SIZES:
        q, k, v = draw(*size, CHECKED_HEADS)
        logits = torch.einsum("blhk,bthk->bhlt", q.double(), k.double()) * HEAD_DIM**-0.5
        exact = torch.einsum("bhlt,bthk->blhk", logits.softmax(-1), v.double())
        errors = [relative_rms(attend(q, k, v), exact) for attend in (kernel, cudnn_attention)]
        outcome[name_of(size)] = {"own": round(errors[0], 5), "cuDNN": round(errors[1], 5)}
        outcome["right"] &= errors[0] <= 1.2 * errors[1]
    outcome["process_seconds"] = round(time.perf_counter() - started, 1)
    return outcome


def draw(num_queries: int, num_keys: int, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values; logits vary by 1. The last keys lie in the middle of a buffer."""
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(1, rows, num_heads, HEAD_DIM, device="cuda", generator=generator).bfloat16()
        for rows in (num_queries, num_keys + 500, num_keys + 500)
    )
    return q, k[:, :num_keys], v[:, :num_keys]


# ---------------------------------------------------------------------------------------------- time and energy


def time_kernel(kernel: Kernel, num_queries: int, num_keys: int) -> dict[str, Any]:
    """Return the time of a layer and of a step, and the rate."""
    call = partial(kernel, *draw(num_queries, num_keys, HEADS))
    return rate(milliseconds(call), num_queries, num_keys)


def sustain(kernel: Kernel, num_queries: int, num_keys: int) -> dict[str, Any]:
    """Return time and energy of a call under lasting load, where power is the limit."""
    call = partial(kernel, *draw(num_queries, num_keys, HEADS))
    call()
    torch.cuda.synchronize()
    started, energy_j = time.perf_counter(), _energy_j()
    num_calls = 0
    while time.perf_counter() < started + SUSTAINED_S:
        for _ in range(CALLS_AT_ONCE):
            call()
        torch.cuda.synchronize()
        num_calls += CALLS_AT_ONCE
    seconds = time.perf_counter() - started
    times = rate(round(1000 * seconds / num_calls, 4), num_queries, num_keys)
    if energy_j is None:
        return times
    joules = (_energy_j() or 0) - energy_j
    return times | {"watts": round(joules / seconds), "joules_per_call": round(joules / num_calls, 4)}


def _energy_j() -> float | None:
    """Return what the card has used since the driver was started, or None without NVIDIA's library for it."""
    try:
        import pynvml
    except ImportError:
        return None
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties().uuid}")
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000


if __name__ == "__main__":
    main()

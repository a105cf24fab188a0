"""python -m liveavatar bench: how fast is the s2v engine on this machine, and how much memory does it take?

Random weights of the published size measure arithmetic and memory without a checkpoint. Exit codes: 0 measured,
1 the machine cannot (out of memory, say), 2 the question makes no sense.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liveavatar.config import AppConfig
from liveavatar.core.parallel import KV_PRECISIONS, PRECISIONS
from liveavatar.monitoring.hardware import HardwareMonitor
from liveavatar.planning.model_spec import MAX_STEPS, VideoSize
from liveavatar.service.learning import RunCalibration

if TYPE_CHECKING:
    from liveavatar.engines.s2v.bench.run import BenchOptions, Measured

MEASURED, CANNOT, REJECTED = 0, 1, 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--engine", choices=("s2v",), default="s2v")
    parser.add_argument(
        "--random-weights", choices=("full", "tiny"), nargs="?", const="full", default="full",
        help="full: the published size; tiny: a rehearsal on any machine",
    )  # fmt: skip
    parser.add_argument("--size", default="704*384", help="width*height in multiples of 64")
    parser.add_argument("--steps", type=int, default=MAX_STEPS, choices=range(1, MAX_STEPS + 1))
    parser.add_argument("--precision", default="fp8", choices=PRECISIONS, help="of the weights")
    parser.add_argument("--kv", default="bf16", choices=KV_PRECISIONS, help="of cached keys and values")
    parser.add_argument("--latents-per-decode", type=int, default=3, choices=(1, 3))
    parser.add_argument("--tiled-vae", action="store_true", help="decode in two tiles")
    parser.add_argument(
        "--resident-blocks",
        type=int,
        metavar="N",
        help="stream all but N transformer blocks from host memory",
    )
    parser.add_argument(
        "--kv-offload", action="store_true", help="keep cached keys and values in host memory"
    )
    parser.add_argument("--attention", default="auto", help="auto, cudnn, hopper, flash or native")
    parser.add_argument("--blocks", type=int, default=60, help="steady blocks to time")
    parser.add_argument("--seconds", type=float, default=600, help="begin no block later than this")
    parser.add_argument("--profile", action="store_true", help="list the kernels that take the time")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--json", action="store_true", help="a line of JSON per stage")


def run(options: argparse.Namespace) -> int:
    """Measure and print; return the exit code."""
    try:
        size = _size(options.size)
    except ValueError as error:
        sys.stderr.write(f"--size {options.size} makes no sense: {error}.\n")
        return REJECTED
    if options.kv_offload and options.kv == "int8":
        sys.stderr.write(
            "--kv-offload cannot be had with --kv int8: rows of its caches do not lie together.\n"
        )
        return REJECTED
    import torch  # the command line stays quick for the other commands

    from liveavatar.engines.s2v.bench.run import Report, run_bench

    report = Report(options.out, _print_json if options.json else _print_stage)
    try:
        measured = run_bench(_bench_options(options, size), report)
    except torch.OutOfMemoryError as error:
        sys.stderr.write(f"The graphics card's memory is too small for this: {error}\n")
        return CANNOT
    if options.random_weights == "full":
        report.add("learned", {"from_now_on": _learn(measured)})
    return MEASURED


def _learn(measured: Measured) -> str:
    """Teach the forecast of this machine; return what that changes."""
    path = AppConfig.from_environment().data_dir / "calibration.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not RunCalibration(path).learn_bench(measured.plan, measured.peaks, HardwareMonitor().snapshot()):
        return "nothing: the window was never full, or the card is not known to the driver"
    return f"plans for cards like this one count with what was measured ({path})"


def _size(text: str) -> VideoSize:
    """Return the size written as "704*384"; any multiples of 64 will do here. Raises ValueError."""
    sides = text.split("*")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ValueError("write it as width*height")
    return VideoSize(*map(int, sides))


def _bench_options(options: argparse.Namespace, size: VideoSize) -> BenchOptions:
    from liveavatar.engines.s2v.bench.run import BenchOptions

    return BenchOptions(
        model=options.random_weights,
        width=size.width,
        height=size.height,
        num_steps=options.steps,
        precision=options.precision,
        kv_precision=options.kv,
        latents_per_decode=options.latents_per_decode,
        tiled_vae=options.tiled_vae,
        resident_blocks=options.resident_blocks,
        caches_on_host=options.kv_offload,
        attention=options.attention,
        num_blocks=options.blocks,
        seconds=options.seconds,
        profile=options.profile,
    )


def _print_json(stage: str, values: Any) -> None:
    sys.stdout.write(json.dumps({"stage": stage, "values": values}) + "\n")
    sys.stdout.flush()


def _print_stage(stage: str, values: Any) -> None:
    sys.stdout.write(f"{stage}\n")
    rows = values if isinstance(values, list) else [{name: value} for name, value in values.items()]
    for row in rows:
        sys.stdout.write("  " + "  ".join(f"{name} {value}" for name, value in row.items()) + "\n")
    sys.stdout.flush()

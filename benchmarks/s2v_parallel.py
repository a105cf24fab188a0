"""Layouts of the s2v engine over several graphics cards, with random weights: measured beside what planning predicts.

    python -m benchmarks.s2v_parallel --plans 4 2+2 1+1+1+1 --links 2 4 --out result.json
    python -m benchmarks.s2v_parallel --plans 4 4:tensor=2 4:layers=2 4:bf16 2+2:sharded --compile-all
    python -m benchmarks.s2v_parallel --model tiny --size 64x64 --precision bf16       anywhere

A plan is its steps by stage, then `tensor=N`, `layers=N`, `sharded` (FSDP), `decoder` (a card of its own), and `fp8` or
`bf16` where it differs from --precision. Ranks have a card each where there are as many. Otherwise they share one,
talk through gloo and take turns: then a stage's time is what it would be on a card of its own, and pictures per second
say nothing. Latents are compared with those of the first plan of one rank in the same precision; pipelines, layers and
sharded weights give the same bits, tensor groups round otherwise. Decoding is part of the measured time. Needs no
checkpoint. Each plan is one line of JSON, also where it fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.link_speed import measure_links
from benchmarks.spread_rank import STEADY_FROM, Compiling, Video, make_video, talks_between
from liveavatar.cli.plan import installed_machine
from liveavatar.core.hardware import GpuSpec
from liveavatar.core.parallel import KV_PRECISIONS, PRECISIONS, KvPrecision, ParallelPlan, Precision
from liveavatar.monitoring.hardware import HardwareMonitor
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.planning.calibration import NOTHING_MEASURED
from liveavatar.planning.evaluation import Evaluator
from liveavatar.planning.layouts import Configuration
from liveavatar.planning.model_spec import VideoSize
from liveavatar.planning.speed_model import decode_seconds
from tests.parallel.rank_pool import RankPool

_PLAN_S = 200.0  # with compiling
_LINKS_S = 60.0
_SHORTEST_S = 10.0  # less time is not worth beginning a plan
_OF_EACH_RANK = ("stage_ms", "peak_gb", "beyond_allocator_gb", "load_s", "warm_up_s")


@dataclass(frozen=True)
class NamedPlan:
    """A layout as the command line names it."""

    name: str
    parallel: ParallelPlan
    precision: Precision | None  # None: that of all


def main() -> None:
    """Measure the links, then run the plans one after the other."""
    options = _options()
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # as the app does
    ends_at = time.monotonic() + options.seconds
    gpus = installed_machine(HardwareMonitor().snapshot())[0].gpus
    num_ranks = max([*options.links, *(plan.parallel.world_size for plan in options.plans)])
    lines = []
    with RankPool(num_ranks, on_cards=torch.cuda.is_available()) as pool:
        for line in _measured(pool, options, gpus, ends_at):
            lines.append(line)
            print(json.dumps(line), flush=True)
            if options.out:
                options.out.write_text(json.dumps(lines, indent=1) + "\n")


def _measured(
    pool: RankPool, options: argparse.Namespace, gpus: tuple[GpuSpec, ...], ends_at: float
) -> Iterator[dict[str, Any]]:
    planned = gpus[0].link_bytes_per_s if gpus else None
    for num_ranks in options.links:
        line = {"links": num_ranks, "planned_bytes_per_s": planned}
        pool.answer_s = min(_LINKS_S, ends_at - time.monotonic())
        try:
            yield line | pool.call(measure_links, num_ranks)[0]
        except (RuntimeError, AssertionError, OSError, EOFError) as error:
            yield line | {"error": _told(error)}
    expected: dict[tuple[Precision, int], Tensor] = {}
    for plan in options.plans:
        started = time.monotonic()
        line = {"plan": plan.name}
        pool.answer_s = min(_PLAN_S, ends_at - started)
        if pool.answer_s < _SHORTEST_S:
            yield line | {"error": f"not begun: the {options.seconds:.0f} s are over"}
            continue
        video = _video(plan, options, pool.answer_s)
        line |= {"precision": video.precision, "kv": video.kv_precision, "compiled": video.compiling}
        line["predicted"] = predicted(video, gpus)
        try:
            latents, measured = run(pool, video)
            if plan.parallel.world_size == 1:
                expected.setdefault((video.precision, plan.parallel.num_steps), latents)
            if (alone := expected.get((video.precision, plan.parallel.num_steps))) is not None:
                measured |= compare(latents, alone)
            line |= measured
        except (RuntimeError, AssertionError, OSError, EOFError) as error:
            line["error"] = _told(error)
        yield line | {"seconds": round(time.monotonic() - started, 1)}


def run(pool: RankPool, video: Video) -> tuple[Tensor, dict[str, Any]]:
    """Return the latents [blocks, 16, 3, h, w] and what was measured."""
    shares_card = torch.cuda.device_count() < video.plan.world_size
    with tempfile.NamedTemporaryFile() as file:
        if shares_card and not talks_between(video.plan):
            video = dataclasses.replace(video, turns=Path(file.name))
        ranks = pool.call(make_video, video.plan.world_size, video=video)
    end_s, latents = ranks[-1]["end_s"], ranks[-1]["latents"]
    block_s = (end_s[-1] - end_s[STEADY_FROM - 1]) / (len(end_s) - STEADY_FROM)
    return latents, {
        "block_s": round(block_s, 4),
        "fps": round(PICTURES_PER_BLOCK / block_s, 2),
        "first_block_s": end_s[0],
        **{name: [rank[name] for rank in ranks] for name in _OF_EACH_RANK},
        "end_s": end_s,
        "card": ranks[0]["card"],
        "shares_card": shares_card,
        "torch": torch.__version__,
    }


def predicted(video: Video, gpus: tuple[GpuSpec, ...]) -> dict[str, Any] | None:
    """Return what planning says of the layout on cards like the first one; None without a card, or of a small model."""
    if not gpus or video.model != "full":
        return None
    size = VideoSize(video.width, video.height)
    evaluator = Evaluator([gpus[0]] * video.plan.world_size, None, size, NOTHING_MEASURED)
    configuration = Configuration(
        parallel=video.plan, precision=video.precision, kv_precision=video.kv_precision
    )
    block_s = evaluator.speed.block_seconds(configuration)
    details = evaluator.details(configuration)
    return {
        "block_s": round(block_s, 4),
        "fps": round(PICTURES_PER_BLOCK / block_s, 2),
        "rank_ms": [round(1000 * seconds, 1) for seconds in details.rank_seconds],  # the last one decodes too
        "decode_ms": round(1000 * decode_seconds(gpus[0], size, configuration.latents_per_decode), 1),
        "needed_gb": [round(budget.needed_bytes / 1e9, 2) for budget in details.budgets],
    }


def compare(latents: Tensor, expected: Tensor) -> dict[str, Any]:
    """Return how far the latents are from those of one process."""
    difference, scale = (latents.float() - expected.float()), expected.float().square().mean().sqrt()
    first = difference[0].square().mean().sqrt() / expected[0].float().square().mean().sqrt()
    return {
        "same_bits": bool(torch.equal(latents, expected)),
        "rms_error": float(difference.square().mean().sqrt() / scale),
        "rms_error_of_first_block": float(first),
        "finite": bool(latents.isfinite().all()),
    }


def parse_plan(name: str) -> NamedPlan:
    """Return the plan that "2+2:tensor=2:bf16" names. Raises ValueError where it names none."""
    steps, *words = name.split(":")
    settings: dict[str, Any] = {}
    precision: Precision | None = None
    for word in words:
        key, _, value = word.partition("=")
        if word in PRECISIONS:
            precision = next(each for each in PRECISIONS if each == word)
        elif word == "sharded":
            settings["weights_sharded"], precision = True, precision or "bf16"
        elif word == "decoder":
            settings["decoder_has_own_rank"] = True
        elif key in ("tensor", "layers"):
            settings["tensor" if key == "tensor" else "layer_parts"] = int(value)
        else:
            raise ValueError(
                f"{word} is none of tensor=N, layers=N, sharded, decoder, {', '.join(PRECISIONS)}"
            )
    parallel = ParallelPlan(step_split=tuple(map(int, steps.split("+"))), **settings)
    return NamedPlan(name, parallel, precision)


def _video(plan: NamedPlan, options: argparse.Namespace, deadline_s: float) -> Video:
    width, height = map(int, options.size.split("x"))
    kv: KvPrecision = options.kv
    return Video(
        plan=plan.parallel,
        model=options.model,
        width=width,
        height=height,
        precision=plan.precision or options.precision,
        kv_precision=kv,
        num_blocks=options.blocks,
        compiling=options.compiling,
        turns=None,
        deadline_s=deadline_s,
    )


def _told(error: BaseException) -> str:
    """Return a rank's failure: which rank, and the end of its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " | ".join([lines[0], *lines[1:][-4:]])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plans", nargs="*", default=["4", "2+2", "1+1+1+1"], help="see above")
    parser.add_argument("--links", nargs="*", type=int, default=[], help="measure the link of so many cards")
    parser.add_argument("--model", choices=("full", "tiny"), default="full")
    parser.add_argument("--size", default="704x384", help="width x height, multiples of 64")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp8")
    parser.add_argument("--kv", choices=KV_PRECISIONS, default="bf16")
    parser.add_argument("--blocks", type=int, default=12, help=f"a multiple of 4, more than {STEADY_FROM}")
    nothing, as_engine, everything = get_args(Compiling)
    parser.add_argument("--compile", dest="compiling", action="store_const", const=as_engine, default=nothing)
    parser.add_argument("--compile-all", dest="compiling", action="store_const", const=everything)
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all; what is left is not begun")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.blocks % 4 or options.blocks <= STEADY_FROM:
        parser.error(f"--blocks must be a multiple of 4 and more than {STEADY_FROM}, got {options.blocks}")
    try:
        options.plans = [parse_plan(name) for name in options.plans]
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    main()

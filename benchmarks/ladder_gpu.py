"""Let memory run out in the middle of a video, for real: what gives way, and is the video whole?

    python -m benchmarks.ladder_gpu --out result.json      full size with random weights, on a graphics card
    python -m benchmarks.ladder_gpu --model tiny           rehearsal on the processor, with a limit on tensors

Scenarios, each a video of its own through `engines.s2v.adaptive`, the loop of the engine:

- `undisturbed`: the reference.
- `capped`: after a clip, torch may hold less than it held (`set_per_process_memory_fraction`); allocations fail.
- `foreign`: after a clip, another process takes what is free; allocations fail. On the processor, like `capped`.
- `crowded`: that process stays while the next video begins; what fits is chosen by the forecast. Card only.
- `pinned`: like `capped` with a pinned size; it must fail with what was made before.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.foreign_program import foreign_program
from liveavatar.core.errors import EngineFailed
from liveavatar.core.note import Note
from liveavatar.core.parallel import Offload, ParallelPlan
from liveavatar.core.plan import ExecutionPlan, ModelFiles, PlanChange
from liveavatar.engines.s2v.adaptive import AdaptiveVideo
from liveavatar.engines.s2v.bench.random_parts import random_parts
from liveavatar.engines.s2v.memory import give_back, measure_available
from liveavatar.engines.s2v.meter import Meter
from liveavatar.models.s2v.config import CLIP_BLOCKS
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.planning import choice
from liveavatar.planning.machine_text import spec_of_installed
from liveavatar.planning.model_spec import TRANSFORMER_PARAMETERS
from liveavatar.planning.s2v_request import S2vSetup, plan_s2v

NUM_BLOCKS = 3 * CLIP_BLOCKS
DISTURBED_AFTER = CLIP_BLOCKS + 1  # blocks
CAP_SHARE = 0.85  # of what the undisturbed video held at its peak
LEFT_BYTES, LEFT_TO_NEXT_BYTES = 1 << 30, 16 << 30  # what the other process leaves free
TINY_LEFT_BYTES = 26e6
TINY_SIZES = (128 * 64, 64 * 64)

Disturb = Callable[[contextlib.ExitStack], None]


class RandomConditions:
    """Implements `adaptive.Conditions` without files."""

    seed, prompt, num_blocks = 0, "", NUM_BLOCKS

    def __init__(self, parts: Any, width: int, height: int) -> None:
        self.picture_size = 2 * width, 2 * height
        self._shape = 1, parts.audio_encoder.num_states, parts.audio_encoder.num_channels, PICTURES_PER_BLOCK

    def reference(self, height: int, width: int) -> Tensor:
        """Return a picture of noise in -1..1."""
        return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def speech(self, first_block: int) -> Iterator[Tensor]:
        """Yield random features, the same for the same block."""
        for block in range(first_block, self.num_blocks):
            yield torch.randn(self._shape, generator=torch.Generator().manual_seed(block))


class Card:
    """A graphics card whose memory others take."""

    limit: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()

    def peak_bytes(self) -> int:
        """Return the most that torch held since the last question."""
        peak = torch.cuda.max_memory_reserved()
        torch.cuda.reset_peak_memory_stats()
        return peak

    def cap(self, num_bytes: float, stack: contextlib.ExitStack) -> None:
        """Let torch hold at most so much until the stack ends."""
        give_back()
        torch.cuda.set_per_process_memory_fraction(num_bytes / torch.cuda.mem_get_info()[1])
        stack.callback(torch.cuda.set_per_process_memory_fraction, 1.0)

    def grab(self, stack: contextlib.ExitStack, left_bytes: int = LEFT_BYTES) -> None:
        """Have another process hold all that is free but `left_bytes` until the stack ends."""
        give_back()
        free, _ = torch.cuda.mem_get_info()
        stack.enter_context(foreign_program(free - left_bytes))


class Processor:
    """A limit on live tensors stands for the card."""

    def __init__(self) -> None:
        from tests.fakes.allocation_limit import AllocationLimit  # only for the rehearsal

        self._limit_bytes = math.inf
        self.limit = AllocationLimit(lambda: self._limit_bytes)

    def peak_bytes(self) -> int:
        """Return the most that tensors took since the last question."""
        peak, self.limit.peak_bytes = self.limit.peak_bytes, 0
        return peak

    def cap(self, num_bytes: float, stack: contextlib.ExitStack) -> None:
        """Let tensors take at most so much until the stack ends."""
        self._limit_bytes = num_bytes
        stack.callback(setattr, self, "_limit_bytes", math.inf)

    def grab(self, stack: contextlib.ExitStack, left_bytes: float = TINY_LEFT_BYTES) -> None:
        """Leave enough for the smallest size only."""
        self.cap(left_bytes, stack)


class Bench:
    """The networks, and one video after another."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.on_card = torch.cuda.is_available() and options.model == "full"
        self.memory = Card() if self.on_card else Processor()
        width, height = map(int, options.size.split("x"))
        self.plan = _plan(options, width, height)
        device = torch.device("cuda" if self.on_card else "cpu")
        self.parts = random_parts(options.model, self.plan, device)
        self.conditions = RandomConditions(self.parts, width, height)
        self.results: list[dict[str, Any]] = []

    def video(self, name: str, disturb: Disturb | None, *, pin_size: bool = False) -> int:
        """Make one video, disturbed in its second clip; return the most memory it held."""
        started = time.perf_counter()
        self.memory.peak_bytes()
        video = AdaptiveVideo(
            self.parts,
            self.plan,
            self.conditions,
            pin_size=pin_size,
            available_bytes=measure_available if self.on_card else lambda: 1 << 50,
            take_wish=lambda: None,
            meter=Meter(self.parts.transformer.device),
        )
        sizes: list[str] = []
        result: dict[str, Any] = {"scenario": name, "changes": [], "remarks": []}
        with contextlib.ExitStack() as stack:
            try:
                for made in video.make():
                    if isinstance(made, PlanChange):
                        result["changes"].append(dataclasses.asdict(made))
                    elif isinstance(made, Note):
                        result["remarks"].append(made.text)
                    else:
                        sizes += ["{1}x{0}".format(*made.shape[1:3])] * len(made)
                        if disturb and len(sizes) == DISTURBED_AFTER * PICTURES_PER_BLOCK:
                            disturb(stack)
            except EngineFailed as failure:
                result["failed"] = failure.diagnosis.sentence()
            peak = self.memory.peak_bytes()
        give_back()
        result |= {
            "pictures": len(sizes),
            "is_whole": len(sizes) == NUM_BLOCKS * PICTURES_PER_BLOCK,
            "sizes": {size: sizes.count(size) for size in dict.fromkeys(sizes)},
            "peak_gb": round(peak / 1e9, 3),
            "seconds": round(time.perf_counter() - started, 1),
        }
        self.results.append(result)
        print(json.dumps(result), flush=True)
        return peak


def run(bench: Bench) -> None:
    """Go through the scenarios."""
    peak = bench.video("undisturbed", None)

    def cap(stack: contextlib.ExitStack) -> None:
        bench.memory.cap(CAP_SHARE * peak, stack)

    bench.video("capped", cap)
    bench.video("foreign", bench.memory.grab)
    if bench.on_card:
        with contextlib.ExitStack() as stack:
            bench.memory.grab(stack, LEFT_TO_NEXT_BYTES)
            bench.video("crowded", None)
    bench.video("pinned", lambda stack: bench.memory.cap(0.5 * peak, stack), pin_size=True)
    bench.video("undisturbed again", None)


def _plan(options: argparse.Namespace, width: int, height: int) -> ExecutionPlan:
    if options.model == "tiny":
        choice.AUTO_AREAS = TINY_SIZES
        return ExecutionPlan(
            engine="s2v", width=width, height=height, parallel=ParallelPlan(step_split=(4,)),
            offload=Offload(text_encoder=True),
        )  # fmt: skip
    _, total = torch.cuda.mem_get_info()
    gpu, _ = spec_of_installed(name=torch.cuda.get_device_name(), total_bytes=total, used_bytes=0)
    setup = S2vSetup(
        files=ModelFiles(checkpoint="", lora="", cache=""),
        num_parameters=TRANSFORMER_PARAMETERS,
        gpus=(gpu,),
    )
    return plan_s2v(setup, size=f"{width}*{height}", picture=(2 * width, 2 * height))


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=("full", "tiny"), default="full")
    parser.add_argument(
        "--size", help="width x height of a size that is offered; 704x384, or 128x64 for the tiny model"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.size = options.size or {"full": "704x384", "tiny": "128x64"}[options.model]
    logging.basicConfig(level=logging.INFO)
    bench = Bench(options)
    with bench.memory.limit:
        run(bench)
    if options.out is not None:
        report = {
            "card": torch.cuda.get_device_name() if bench.on_card else "processor",
            "torch": torch.__version__,
            "plan": dataclasses.asdict(bench.plan),
            "scenarios": bench.results,
        }
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

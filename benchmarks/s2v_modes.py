"""Run the s2v engine's frugal plans with random weights under a limit of graphics memory; compare with the forecast.

    python -m benchmarks.s2v_modes 48 24 16                     what is planned for cards of so many GB
    python -m benchmarks.s2v_modes 24:precision=fp8,kv=fp8,resident=8,caches=host,latents=1,tiles=2
    python -m benchmarks.s2v_modes --model tiny --size 192x192 16:resident=1,caches=host,kv=fp8,tiles=2

A mode is a card's GB, alone or with what is to be done on it. The limit is what such a card has for the allocator. The
forecast counts with the arithmetic of the card that is really there. Every stage is one line of JSON. Needs no media
library.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from liveavatar.core.hardware import GpuSpec, Machine
from liveavatar.core.parallel import Offload, ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.engines.s2v.bench.random_parts import random_parts
from liveavatar.engines.s2v.compiling import compile_parts
from liveavatar.engines.s2v.memory import give_back
from liveavatar.engines.s2v.meter import Meter
from liveavatar.engines.s2v.parts import Parts
from liveavatar.engines.s2v.video import PictureStream
from liveavatar.models.s2v import TokenGrid
from liveavatar.pipeline.decode import PICTURES_PER_BLOCK
from liveavatar.pipeline.denoise import BlockDenoiser
from liveavatar.pipeline.randomness import SeededRandomness
from liveavatar.planning.calibration import NOTHING_MEASURED
from liveavatar.planning.candidates import candidates
from liveavatar.planning.evaluation import Evaluator
from liveavatar.planning.layouts import Configuration
from liveavatar.planning.machine_text import parse_machine, spec_of_installed
from liveavatar.planning.memory_model import CONTEXT_BYTES
from liveavatar.planning.model_spec import VideoSize

WINDOW_BLOCKS = 5  # until attention sees its full window and the sink was refreshed
STEP_BLOCKS = 3  # of the steps alone
FORECAST_CARD = "1xH200"  # stands for the processor


def main() -> None:
    """Run every mode on its own."""
    options = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report(
        "machine",
        card=torch.cuda.get_device_name() if device.type == "cuda" else "none",
        torch=torch.__version__,
    )
    for mode in options.modes:
        try:
            ModeRun(mode, options, device).run()
        except (RuntimeError, ValueError) as error:  # out of memory among them: the other modes may fit
            where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            report(mode, error=f"{type(error).__name__}: {str(error)[:300]}", where=where[:10])
        torch._dynamo.reset()
        give_back()
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)


def report(stage: str, **values: Any) -> None:
    """Print one line."""
    print(json.dumps({"stage": stage, **values}), flush=True)


class ModeRun:
    """One mode from the plan to what was measured."""

    def __init__(self, mode: str, options: argparse.Namespace, device: torch.device) -> None:
        self._mode, self._options, self._device = mode, options, device
        memory, _, settings = mode.partition(":")
        self._card = _card(memory, device)
        self._size = VideoSize(*map(int, options.size.split("x")))
        self._evaluator = Evaluator([self._card], None, self._size, NOTHING_MEASURED)
        self._configuration = self._planned() if not settings else _configured(settings, options.steps)

    def run(self) -> None:
        """Load, warm up, make a video, time its steps."""
        self._report_plan()
        if self._device.type == "cuda":
            limit = self._card.total_bytes - CONTEXT_BYTES
            torch.cuda.set_per_process_memory_fraction(
                limit / torch.cuda.get_device_properties(0).total_memory
            )
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        parts = random_parts(self._options.model, self._plan(), self._device)
        kernel = parts.transformer.select_attention()
        report(self._mode, loaded_s=_since(started), attention=kernel, **_memory(self._device))
        if self._device.type == "cuda" and not self._options.eager:
            compile_parts(parts.transformer, parts.vae, None)
        started = time.perf_counter()
        with torch.inference_mode():
            self._video(parts, num_blocks=1)
            report(self._mode, warm_up_s=_since(started), **_memory(self._device))
            self._report_video(parts)
            self._report_steps(parts)

    def _planned(self) -> Configuration:
        """Return what the planner chooses for the card."""
        best = candidates(Machine(gpus=(self._card,)), self._size)[0]
        if not best.fits:
            raise ValueError(best.details.reason)
        return best.configuration

    def _plan(self) -> ExecutionPlan:
        configuration = self._configuration
        return ExecutionPlan(
            engine="s2v",
            width=self._size.width,
            height=self._size.height,
            parallel=configuration.parallel,
            precision=configuration.precision,
            kv_precision=configuration.kv_precision,
            offload=configuration.offload,
            latents_per_decode=configuration.latents_per_decode,
            tiled_vae=configuration.tiled_vae,
        )

    def _report_plan(self) -> None:
        details = self._evaluator.details(self._configuration)
        block_s = self._evaluator.speed.block_seconds(self._configuration)
        report(
            self._mode,
            plan=self._configuration.describe(),
            latents_per_decode=self._configuration.latents_per_decode,
            limit_gb=_gb(self._card.total_bytes),
            forecast_gb=_gb(details.budgets[0].needed_bytes),
            forecast_block_ms=round(1000 * block_s),
            forecast_fps=round(PICTURES_PER_BLOCK / block_s, 2),
            host_gb=_gb(details.host_bytes),
        )

    def _video(self, parts: Parts, num_blocks: int) -> tuple[list[float], Meter]:
        """Make a video; return the seconds of the blocks behind the full window, and what the meter saw."""
        meter = Meter(self._device)
        meter.begin_video()
        meter.note_resident(parts.kept_tensors)
        plan = self._plan()
        stream = PictureStream(
            parts.transformer,
            parts.vae,
            plan,
            reference=torch.rand(3, plan.height, plan.width) * 2 - 1,
            text=parts.encode_prompt("", on_processor=True),
            speech=self._speech(parts),
            seed=0,
            meter=meter,
            host_caches=parts.host_caches if plan.offload.caches else None,
        )
        seconds = []
        for _ in itertools.islice(stream, WINDOW_BLOCKS + 1 + num_blocks):
            seconds.append(time.perf_counter())
        return [later - earlier for earlier, later in itertools.pairwise(seconds[WINDOW_BLOCKS:])], meter

    def _report_video(self, parts: Parts) -> None:
        give_back()  # the video before, and what compiling left
        block_s, meter = self._video(parts, self._options.blocks)
        seen = meter.report(is_block=False)
        measured = {item.name: item.num_bytes for item in (*seen.items, *seen.momentary)}
        budget = self._evaluator.details(self._configuration).budgets[0]
        items, used = budget.items, _peak_used_bytes(self._device)
        report(
            self._mode,
            block_ms=round(1000 * statistics.median(block_s), 1),
            slowest_block_ms=round(1000 * max(block_s), 1),
            fps=round(PICTURES_PER_BLOCK * len(block_s) / sum(block_s), 2),
            peak_gb=_gb(seen.peak_bytes),
            peak_used_gb=_gb(used),
            forecast_over_used=round(budget.needed_bytes / used, 3) if used else None,
            items={
                item.name: {"forecast_gb": _gb(item.num_bytes), "measured_gb": _gb(measured[item.name])}
                for item in items
                if item.name in measured
            },
        )

    def _report_steps(self, parts: Parts) -> None:
        """Time the denoising of blocks alone, waited for."""
        give_back()
        plan, randomness = self._plan(), SeededRandomness(0)
        grid = TokenGrid(latent_height=plan.height // 8, latent_width=plan.width // 8)
        like = torch.empty(0, device=self._device, dtype=parts.transformer.compute_dtype)
        denoiser = BlockDenoiser(
            parts.transformer,
            grid=grid,
            text=parts.encode_prompt("", on_processor=True),
            sink_distance=randomness.sink_distance,
            num_steps=plan.num_steps,
            kv_precision=plan.kv_precision,
            host_caches=parts.host_caches if plan.offload.caches else None,
        )
        noise = randomness.clip_noise(0, height=grid.latent_height, width=grid.latent_width, like=like)[:, :3]
        seconds = []
        for block, speech in enumerate(itertools.islice(self._speech(parts), WINDOW_BLOCKS + STEP_BLOCKS)):
            started = time.perf_counter()
            denoiser.denoise(noise, speech.to(self._device), block)
            if self._device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        report(
            self._mode, step_ms=round(1000 * statistics.median(seconds[WINDOW_BLOCKS:]) / plan.num_steps, 1)
        )

    def _speech(self, parts: Parts) -> Iterator[Tensor]:
        encoder = parts.audio_encoder
        while True:
            yield torch.randn(1, encoder.num_states, encoder.num_channels, PICTURES_PER_BLOCK)


def _card(memory_gb: str, device: torch.device) -> GpuSpec:
    """Return the card that is there with the memory of another."""
    if device.type == "cuda":
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        card, _ = spec_of_installed(name=torch.cuda.get_device_name(), total_bytes=total_bytes, used_bytes=0)
    else:
        card = parse_machine(FORECAST_CARD).gpus[0]
    return dataclasses.replace(card, total_bytes=parse_machine(f"1x{memory_gb}").gpus[0].total_bytes)


def _configured(settings: str, num_steps: int) -> Configuration:
    """Return what "precision=fp8,kv=fp8,steps=3,resident=8,caches=host,latents=1,tiles=2" says; else it is plain."""
    named = dict(setting.split("=") for setting in settings.split(","))
    unknown = named.keys() - {"precision", "kv", "steps", "resident", "caches", "latents", "tiles"}
    if unknown:
        raise ValueError(f"unknown settings {', '.join(sorted(unknown))}")
    return Configuration(
        parallel=ParallelPlan(step_split=(int(named.get("steps", num_steps)),)),
        precision=named.get("precision", "bf16"),  # type: ignore[arg-type]
        kv_precision=named.get("kv", "bf16"),  # type: ignore[arg-type]
        offload=Offload(
            resident_blocks=int(named["resident"]) if "resident" in named else None,
            caches=named.get("caches") == "host",
        ),
        latents_per_decode=int(named.get("latents", 3)),
        tiled_vae=named.get("tiles") == "2",
    )


def _peak_used_bytes(device: torch.device) -> int:
    """Return the most that this process took of the card, the context included. Nobody else is on it."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info()
    return int(total - free - torch.cuda.memory_reserved() + torch.cuda.max_memory_reserved())


def _memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {
        "allocated_gb": _gb(torch.cuda.memory_allocated()),
        "peak_gb": _gb(torch.cuda.max_memory_allocated()),
    }


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 1)


def _gb(num_bytes: float) -> float:
    return round(num_bytes / 1e9, 2)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modes", nargs="+", help="GB of the card, or GB:setting=value,...")
    parser.add_argument("--model", choices=("full", "tiny"), default="full")
    parser.add_argument("--size", default="704x384", help="width x height, multiples of 64")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps, for modes with settings")
    parser.add_argument("--blocks", type=int, default=8, help="steady blocks to time")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()

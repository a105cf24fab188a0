"""All measurements in order. Each finished one is handed on at once, so that a run cut short leaves what it has."""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from liveavatar.core.parallel import KvPrecision, Offload, ParallelPlan, Precision
from liveavatar.core.peaks import RankPeaks
from liveavatar.core.plan import ExecutionPlan
from liveavatar.engines.s2v.bench import measure
from liveavatar.engines.s2v.bench.ceilings import ceilings
from liveavatar.engines.s2v.bench.power import PowerMeter
from liveavatar.engines.s2v.bench.random_parts import random_parts
from liveavatar.engines.s2v.engine import S2vEngine
from liveavatar.engines.s2v.parts import Parts
from liveavatar.planning.memory_model import RankRole, forecast
from liveavatar.planning.model_spec import VideoSize

_PACKAGES = ("torch", "triton", "diffusers", "transformers", "av", "numpy")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What to measure. `seconds`: no new block is begun later than this after the start."""

    model: Literal["full", "tiny"] = "full"
    width: int = 704
    height: int = 384
    num_steps: int = 4
    precision: Precision = "fp8"
    kv_precision: KvPrecision = "bf16"
    latents_per_decode: int = 3
    tiled_vae: bool = False
    resident_blocks: int | None = None  # None: all
    caches_on_host: bool = False
    attention: str = "auto"  # see models.s2v.attention.choose_attention
    num_blocks: int = 60
    seconds: float = 600.0
    profile: bool = False


class Report:
    """The stages measured so far, written to `path` anew with each."""

    def __init__(self, path: Path | None, on_stage: Callable[[str, dict[str, Any]], None]) -> None:
        self.stages: dict[str, Any] = {}
        self._path = path
        self._on_stage = on_stage

    def add(self, stage: str, values: Any) -> None:
        """Keep what a stage gave."""
        self.stages[stage] = values
        self._on_stage(stage, values)
        if self._path is not None:
            self._path.write_text(json.dumps(self.stages, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was carried out, and the most that the engine needed while it made the video."""

    plan: ExecutionPlan
    peaks: RankPeaks


def run_bench(options: BenchOptions, report: Report) -> Measured:
    """Measure everything on the first graphics card, or on the processor where there is none."""
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report.add("machine", describe_machine(device))
    report.add("options", vars(options))
    plan = _plan(options)
    loaded: list[Parts] = []

    def load_parts(plan: ExecutionPlan) -> Parts:
        parts = random_parts(options.model, plan, device)
        kernel = parts.transformer.select_attention(options.attention)
        loaded.append(parts)
        report.add("loaded", _loaded(parts, kernel, time.perf_counter() - started))
        if options.kv_precision == "int8":
            report.add("8-bit attention", {"why_not": parts.why_no_8_bit_attention})
        if device.type == "cuda":
            report.add("ceilings", ceilings(device, kernel))
        return parts

    engine = S2vEngine(load_parts)
    before_load = time.perf_counter()
    engine.load(plan)
    report.add(
        "warm_up",
        {
            "load_and_compile_s": round(time.perf_counter() - before_load, 1),
            "why_not_compiled": engine.why_not_compiled,
        },
    )
    bench = measure.Bench(parts=loaded[0], plan=plan, deadline=started + options.seconds)
    meter = PowerMeter(device)
    meter.start()
    video, peaks = measure.measure_video(bench, engine, options.num_blocks)
    report.add("video", video | meter.stop())
    if peaks.items and options.model == "full":
        report.add("memory", _beside_forecast(peaks.items, options))
    if not bench.is_late():
        report.add("stages", measure.measure_stages(bench))
    if options.profile and device.type == "cuda" and not bench.is_late():
        report.add("kernels", measure.kernel_profile(bench))
    engine.close()
    return Measured(plan=plan, peaks=peaks)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return hardware, versions and the date."""
    machine: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        machine |= {
            "card": card.name,
            "card_gb": round(card.total_memory / 1e9, 1),
            "compute_capability": f"{card.major}.{card.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return machine


def _plan(options: BenchOptions) -> ExecutionPlan:
    return ExecutionPlan(
        engine="s2v",
        width=options.width,
        height=options.height,
        parallel=ParallelPlan(step_split=(options.num_steps,)),
        precision=options.precision,
        kv_precision=options.kv_precision,
        offload=Offload(resident_blocks=options.resident_blocks, caches=options.caches_on_host),
        latents_per_decode=options.latents_per_decode,
        tiled_vae=options.tiled_vae,
    )


def _loaded(parts: Parts, kernel: str, seconds: float) -> dict[str, Any]:
    allocated = measure.allocated_bytes(parts.transformer.device)
    return {"attention": kernel, "seconds": round(seconds, 1), "allocated_gb": round(allocated / 1e9, 2)}


def _beside_forecast(measured: dict[str, int], options: BenchOptions) -> list[dict[str, Any]]:
    """Return measured and forecast GB of every item of the forecast that the engine measures."""
    role = RankRole(
        size=VideoSize(options.width, options.height),
        num_steps=options.num_steps,
        precision=options.precision,
        kv_precision=options.kv_precision,
        resident_blocks=options.resident_blocks,
        caches_on_host=options.caches_on_host,
        latents_per_decode=options.latents_per_decode,
        tiled_vae=options.tiled_vae,
        encodes_speech=True,
    )
    return [
        _row(item.name, measured[item.name], item.num_bytes)
        for item in forecast(role)
        if item.name in measured
    ]


def _row(name: str, measured_bytes: int, forecast_bytes: int) -> dict[str, Any]:
    return {
        "item": name,
        "measured_gb": round(measured_bytes / 1e9, 2),
        "forecast_gb": round(forecast_bytes / 1e9, 2),
        "forecast_over_measured": round(forecast_bytes / max(measured_bytes, 1), 3),
    }


def _version(package: str) -> str:
    try:
        return metadata.distribution(package).version
    except metadata.PackageNotFoundError:
        return ""

"""What finished videos and `bench` teach the forecast: measured against planned, kept in calibration.json."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from liveavatar.core.hardware import GpuSpec
from liveavatar.core.memory import MemoryBudget
from liveavatar.core.peaks import RankPeaks
from liveavatar.core.plan import ExecutionPlan
from liveavatar.monitoring.hardware import HardwareSnapshot
from liveavatar.planning.calibration import STEP_TIME, Calibration, load_calibration, save_calibration
from liveavatar.planning.evaluation import Evaluator
from liveavatar.planning.layouts import Configuration
from liveavatar.planning.machine_text import spec_of_installed
from liveavatar.planning.model_spec import WINDOW_BLOCKS, VideoSize

log = logging.getLogger(__name__)

# What the engine measures in the sense of the forecast. Of the encoders it knows the weights alone.
_ITEMS = (
    "weights",
    "key-value caches",
    "sink keys",
    "prompt keys",
    "decoder weights",
    "activations",
    "decoder working memory",
)
_SLACK = "allocator slack"

Measurement = tuple[str, float, float]  # item, forecast, measured


class RunCalibration:
    """The calibration of this installation. Read by whoever plans, added to by the job runner."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._calibration = load_calibration(path)

    @property
    def calibration(self) -> Calibration:
        """Return all that was learned."""
        with self._lock:
            return self._calibration

    def learn(self, plan: ExecutionPlan, peaks: Mapping[int, RankPeaks], hardware: HardwareSnapshot) -> None:
        """Compare what the ranks of a video measured with its plan, and keep it.

        Videos that end before the window of attention is full teach nothing: they need less than others will.
        """
        known = calibration = self.calibration
        for budget in plan.budgets:
            rank = peaks.get(budget.rank)
            gpu = None if rank is None else _spec(rank.gpu, hardware)
            if rank is None or gpu is None or len(rank.block_s) <= WINDOW_BLOCKS:
                continue
            factors = known.memory_factors(gpu) | {STEP_TIME: known.time_factor(gpu)}
            for item, forecast, measured in _measurements(plan, budget, rank):
                # The plan was made with what was known: what is learned is measured against the plain forecast.
                plain = forecast / factors.get(item, 1.0)
                calibration = calibration.learned(gpu, item, forecast=plain, measured=measured)
        if calibration is not known:
            self._keep(calibration)

    def learn_bench(self, plan: ExecutionPlan, peaks: RankPeaks, hardware: HardwareSnapshot) -> bool:
        """Compare what `bench` measured on one card with the forecast for it; return whether anything was learned."""
        gpu = _spec(peaks.gpu, hardware)
        if gpu is None:
            return False
        before = self.calibration
        self.learn(_with_forecast(plan, gpu, before), {0: peaks}, hardware)
        return self.calibration is not before

    def _keep(self, calibration: Calibration) -> None:
        with self._lock:
            self._calibration = calibration
        try:
            save_calibration(calibration, self._path)
        except OSError as error:  # it holds until the app ends
            log.warning("what the video measured could not be written to %s: %s", self._path, error)


def _with_forecast(plan: ExecutionPlan, gpu: GpuSpec, calibration: Calibration) -> ExecutionPlan:
    """Return a plan for one card with what the planner would say of it."""
    assert plan.parallel is not None, "a plan for the s2v engine says how it is spread"
    configuration = Configuration(
        parallel=plan.parallel,
        precision=plan.precision,
        kv_precision=plan.kv_precision,
        offload=plan.offload,
        latents_per_decode=plan.latents_per_decode,
        tiled_vae=plan.tiled_vae,
    )
    evaluator = Evaluator([gpu], None, VideoSize(plan.width, plan.height), calibration)
    return dataclasses.replace(
        plan,
        budgets=evaluator.details(configuration).budgets,
        block_s=evaluator.speed.block_seconds(configuration),
    )


def _measurements(plan: ExecutionPlan, budget: MemoryBudget, rank: RankPeaks) -> Iterator[Measurement]:
    measured = {name: rank.items.get(name, 0) for name in _ITEMS}
    measured[_SLACK] = rank.reserved_bytes - rank.peak_bytes
    for name, num_bytes in measured.items():
        forecast = budget.item_bytes(name)
        if forecast > 0 and num_bytes > 0:
            yield name, forecast, num_bytes
    if plan.block_s is None:
        return
    assert plan.parallel is not None, "a plan with a forecast of time says how it is spread"
    if budget.rank == plan.parallel.decoder_rank:  # all ranks have one pace
        # Of the blocks that see a full window, the mean: layer pipelines finish blocks in bunches.
        yield STEP_TIME, plan.block_s, statistics.fmean(rank.block_s[WINDOW_BLOCKS:])


def _spec(uuid: str, hardware: HardwareSnapshot) -> GpuSpec | None:
    """Return the card of this machine that a rank reported, as the planner knows it."""
    gpu = next((gpu for gpu in hardware.gpus if uuid and gpu.uuid == uuid), None)
    if gpu is None:
        return None
    spec, _ = spec_of_installed(
        name=gpu.name, total_bytes=gpu.total_bytes, used_bytes=0, driver=hardware.driver
    )
    return spec

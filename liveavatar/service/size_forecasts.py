"""What would be made of each picture size now, before anybody asks for it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from liveavatar.core.errors import InputRejected
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.sizes import TIERS, Tier
from liveavatar.planning.choice import fixed_size
from liveavatar.planning.model_spec import PICTURES_PER_BLOCK
from liveavatar.planning.s2v_request import S2vSetup, plan_s2v

_MAX_AGE_S = 5.0
_STEP_BYTES = 256 * 1024**2  # of other programs' memory: less changes no answer worth planning anew for


@dataclass(frozen=True, kw_only=True)
class SizeForecast:
    """What the s2v engine makes of a level of detail, in landscape. `made` is None where no size fits.

    `fps`: pictures per second that are predicted, None where that is not known.
    """

    made: tuple[int, int] | None
    fits: bool
    fps: float | None = None


class SizeForecasts:
    """Plans every level of detail anew when something changed. Safe to use from any thread."""

    def __init__(self, find_setup: Callable[[], S2vSetup]) -> None:
        self._find_setup = find_setup
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._setup: S2vSetup | None = None
        self._forecasts: dict[str, SizeForecast] = {}

    def read(self) -> dict[str, SizeForecast]:
        """Return the forecast by name of the level, at most some seconds old; empty without the s2v engine."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at >= _MAX_AGE_S:
                self._looked_at = now
                setup = _rounded(self._find_setup())
                if setup != self._setup:
                    self._setup = setup
                    self._forecasts = forecast_sizes(setup)
            return self._forecasts


def forecast_sizes(setup: S2vSetup) -> dict[str, SizeForecast]:
    """Return what would be made of every level of detail; nothing where the built-in engine makes all videos."""
    if setup.files is None or not setup.gpus:
        return {}
    return {tier.name: _forecast(setup, tier) for tier in TIERS}


def _forecast(setup: S2vSetup, tier: Tier) -> SizeForecast:
    size, picture = "*".join(map(str, tier.landscape)), tier.landscape
    wanted, _ = fixed_size(size)
    try:
        plan = plan_s2v(setup, size=size, picture=(4 * picture[0], 4 * picture[1]))
    except InputRejected:
        return SizeForecast(made=None, fits=False)
    fits = plan.width * plan.height >= wanted.pixels
    return SizeForecast(made=(plan.width, plan.height), fits=fits, fps=predicted_fps(plan))


def predicted_fps(plan: ExecutionPlan) -> float | None:
    """Return how many pictures per second a plan is forecast to make, None for an engine without a forecast."""
    return None if plan.block_s is None else PICTURES_PER_BLOCK / plan.block_s


def _rounded(setup: S2vSetup) -> S2vSetup:
    """Return the setup without the small changes of every second."""
    gpus = tuple(
        dataclasses.replace(
            gpu,
            other_programs_bytes=min(
                gpu.total_bytes, -(-gpu.other_programs_bytes // _STEP_BYTES) * _STEP_BYTES
            ),
        )
        for gpu in setup.gpus
    )
    return dataclasses.replace(setup, gpus=gpus, host_free_bytes=None)

"""What runs on this machine have measured, as factors on the forecast, per model of card and driver.

A factor is measured / forecast. Of memory the largest recent one counts, because too little forecast costs a run and
too much costs a little room; of time the median counts.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from liveavatar.core.hardware import GpuSpec

STEP_TIME = "step time"
_KEPT = 10  # recent measurements per item
_SMALLEST, _LARGEST = 0.5, 2.0  # a factor beyond these is a different program, not a correction

Key = tuple[str, str, str]  # card, driver, item


@dataclass(frozen=True)
class Calibration:
    """Recent factors per card, driver and item. Immutable: `learned` returns a new one."""

    factors: Mapping[Key, tuple[float, ...]] = field(default_factory=dict)

    def memory_factors(self, gpu: GpuSpec) -> dict[str, float]:
        """Return the factor of every item that was measured on cards like this one."""
        if not self.factors:
            return {}
        return {
            item: max(values)
            for (card, driver, item), values in self.factors.items()
            if (card, driver) == (gpu.name, gpu.driver) and item != STEP_TIME
        }

    def time_factor(self, gpu: GpuSpec) -> float:
        """Return how much longer steps take on cards like this one than predicted."""
        values = self.factors.get((gpu.name, gpu.driver, STEP_TIME))
        return statistics.median(values) if values else 1.0

    def learned(self, gpu: GpuSpec, item: str, *, forecast: float, measured: float) -> Calibration:
        """Return the calibration with one more measurement. Both are bytes, or seconds for `STEP_TIME`."""
        if forecast <= 0 or measured <= 0:
            raise ValueError(f"{item}: forecast {forecast} and measured {measured} must be positive")
        factor = min(_LARGEST, max(_SMALLEST, measured / forecast))
        key = (gpu.name, gpu.driver, item)
        return Calibration({**self.factors, key: (*self.factors.get(key, ()), factor)[-_KEPT:]})


NOTHING_MEASURED = Calibration()


def load_calibration(path: Path) -> Calibration:
    """Read a calibration; a file that is missing or damaged counts as nothing measured."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return Calibration(
            {(row["card"], row["driver"], row["item"]): tuple(map(float, row["factors"])) for row in rows}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return NOTHING_MEASURED


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration so that a reader never sees half of it."""
    rows = [
        {"card": card, "driver": driver, "item": item, "factors": values}
        for (card, driver, item), values in sorted(calibration.factors.items())
    ]
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    part.replace(path)

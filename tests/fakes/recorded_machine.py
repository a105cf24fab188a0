"""A monitor on a recorded machine, played by hand."""

from __future__ import annotations

from pathlib import Path

from liveavatar.monitoring.hardware import HardwareMonitor, HardwareSnapshot
from liveavatar.monitoring.readings import Reading
from liveavatar.monitoring.trace import read_trace
from tests.fakes.replayed_nvml import ReplayedNvml

TRACES = Path(__file__).parents[1] / "data" / "monitoring"


def trace(name: str) -> list[Reading]:
    """Return the readings of a recording."""
    return read_trace(TRACES / f"{name}.jsonl")


class Machine:
    """A monitor on a replayed driver, with a clock of its own."""

    def __init__(
        self, readings: list[Reading], *, unavailable: tuple[str, ...] = (), is_wsl: bool = False
    ) -> None:
        self.nvml = ReplayedNvml(readings, unavailable=unavailable)
        self.now = 0.0
        self.monitor = HardwareMonitor(reader=self.nvml.reader(), clock=lambda: self.now, is_wsl=is_wsl)

    def play(self, *, until_s: float = float("inf")) -> HardwareSnapshot:
        """Read at the times of the recording, from the present position on; return the summary at the end."""
        start = self.nvml.position
        for position, reading in enumerate(self.nvml.readings[start:], start=start):
            if reading.time_s > until_s:
                break
            self.nvml.position, self.now = position, reading.time_s
            self.monitor.read()
        return self.look()

    def look(self) -> HardwareSnapshot:
        """Return a fresh summary."""
        self.now += 1.0
        return self.monitor.snapshot()

"""The most that a rank needed during one video, of what it reports block by block."""

from __future__ import annotations

from dataclasses import dataclass, field

from liveavatar.core.events import Telemetry


@dataclass(kw_only=True)
class RankPeaks:
    """What the reports of one rank come to. Bytes are those of the allocator, 0 on the processor."""

    gpu: str = ""  # UUID of the card; empty on the processor
    items: dict[str, int] = field(default_factory=dict)  # bytes by the names of the forecast
    reserved_bytes: int = 0
    peak_bytes: int = 0
    block_s: list[float] = field(default_factory=list)  # seconds of each block
    allocated_bytes: list[int] = field(default_factory=list)  # after each block

    def take(self, report: Telemetry) -> None:
        """Take one report in."""
        self.gpu = report.gpu
        for item in (*report.items, *report.momentary):
            self.items[item.name] = max(self.items.get(item.name, 0), item.num_bytes)
        self.reserved_bytes = max(self.reserved_bytes, report.reserved_bytes)
        self.peak_bytes = max(self.peak_bytes, report.peak_bytes)
        if report.block_s is not None:
            self.block_s.append(report.block_s)
            self.allocated_bytes.append(report.allocated_bytes)

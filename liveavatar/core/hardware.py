"""The machine as the planner sees it: what each graphics card can hold, compute and move."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GpuSpec:
    """One graphics card. Rates are per second; links are one direction and what is reached, not the data sheet's.

    `total_bytes` is what a program sees, a little less than what is printed on the box. `fp8_flops` is None for
    cards that cannot multiply in 8 bits. Arithmetic rates are dense, with sums kept in float32.
    """

    name: str
    total_bytes: int
    bf16_flops: float
    fp8_flops: float | None
    memory_bytes_per_s: float
    link_bytes_per_s: float  # to another card of the machine
    host_bytes_per_s: float  # from host memory
    compute_capability: tuple[int, int]
    other_programs_bytes: int = 0
    driver: str = ""  # version; empty when the card is only imagined
    uuid: str = ""  # as its driver writes it; empty when it is not known
    machine: str = ""  # where it is, by name; empty: in the app's own

    def __post_init__(self) -> None:
        for field in (
            "total_bytes",
            "bf16_flops",
            "memory_bytes_per_s",
            "link_bytes_per_s",
            "host_bytes_per_s",
        ):
            if getattr(self, field) <= 0:
                raise ValueError(f"{self.name}: {field} must be positive, got {getattr(self, field)}")

    @property
    def free_bytes(self) -> int:
        """Return what other programs leave."""
        return max(0, self.total_bytes - self.other_programs_bytes)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The graphics cards of one machine and its host memory (None: not known, taken as enough)."""

    gpus: tuple[GpuSpec, ...]
    host_bytes: int | None = None

    def describe(self) -> str:
        """Return "5 x RTX 4090"."""
        counts = Counter(gpu.name for gpu in self.gpus)
        return " + ".join(f"{count} x {name}" for name, count in counts.items()) or "no graphics card"

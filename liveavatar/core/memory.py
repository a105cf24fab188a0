"""Memory in words that forecast and gauge share: named items, summed per rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 1024**3

Basis = Literal["measured", "computed", "assumed"]


@dataclass(frozen=True, kw_only=True)
class MemoryItem:
    """One named share of a graphics card's memory, and how its size is known.

    measured: read off a running engine. computed: follows from shapes and data types. assumed: neither.
    """

    name: str
    num_bytes: int
    basis: Basis

    def __post_init__(self) -> None:
        if self.num_bytes < 0:
            raise ValueError(f"{self.name} cannot take {self.num_bytes} bytes")


@dataclass(frozen=True, kw_only=True)
class MemoryBudget:
    """What one rank needs against what its card offers, both in bytes."""

    rank: int
    role: str  # "steps 1-2", "decoder"
    gpu: str
    available_bytes: int  # what is left after other programs and the safety margin
    items: tuple[MemoryItem, ...]
    card: str = ""  # UUID of the card; empty when it is not known
    machine: str = ""  # where the card is, by name; empty: in the app's own

    @property
    def needed_bytes(self) -> int:
        """Return the sum of all items."""
        return sum(item.num_bytes for item in self.items)

    @property
    def missing_bytes(self) -> int:
        """Return how much does not fit; 0 when all of it does."""
        return max(0, self.needed_bytes - self.available_bytes)

    @property
    def spare_bytes(self) -> int:
        """Return what stays free; negative when something does not fit."""
        return self.available_bytes - self.needed_bytes

    @property
    def fits(self) -> bool:
        """Whether everything fits."""
        return self.needed_bytes <= self.available_bytes

    def item_bytes(self, name: str) -> int:
        """Return the bytes of the item called `name`, 0 when there is none."""
        return sum(item.num_bytes for item in self.items if item.name == name)


def gb_text(num_bytes: float) -> str:
    """Return "23.6 GB"; wherever an operator reads it, GB is 2**30 bytes, as cards are sold and drivers count."""
    return f"{gb_digits(num_bytes)} GB"


def gb_digits(num_bytes: float) -> str:
    """Return "23.6", for tables whose heading names the unit."""
    return f"{num_bytes / GIB:.1f}"

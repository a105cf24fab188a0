"""What the operator fixed of a plan, and what the engine can carry out."""

from __future__ import annotations

from dataclasses import dataclass

from liveavatar.core.parallel import KvPrecision, Precision
from liveavatar.planning.layouts import MAX_WORLD
from liveavatar.planning.model_spec import MAX_STEPS
from liveavatar.planning.placement import Slots


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """Which of all plans an engine can carry out."""

    max_ranks: int = MAX_WORLD
    shards_on_host: bool = True  # keeps the shares of FSDP in host memory


EVERYTHING = Abilities()
# What the s2v engine does today. The plan command answers for everything; the app plans within this.
ENGINE = Abilities(shards_on_host=False)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the operator fixed, and what the engine is able to do.

    None leaves the choice open; 8-bit attention is used only when asked for.
    """

    num_steps: int = MAX_STEPS
    precision: Precision | None = None
    kv_precision: KvPrecision | None = None
    abilities: Abilities = EVERYTHING
    slots: Slots = ()  # of ranks on each machine; none: one for each card, all in one machine

    def __post_init__(self) -> None:
        if not 1 <= self.num_steps <= MAX_STEPS:
            raise ValueError(f"1 to {MAX_STEPS} steps can be run, not {self.num_steps}")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Return the precisions of weights to try."""
        return ("bf16", "fp8") if self.precision is None else (self.precision,)

    @property
    def kv_precisions(self) -> tuple[KvPrecision, ...]:
        """Return the precisions of caches to try, the plainest first."""
        return ("bf16", "fp8") if self.kv_precision is None else (self.kv_precision,)


ANYTHING = Wishes()

"""How a request will be carried out."""

from __future__ import annotations

from dataclasses import dataclass, field

from liveavatar.core.memory import MemoryBudget
from liveavatar.core.parallel import KvPrecision, Offload, ParallelPlan, Precision

FPS = 25


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """The engine, the picture size and the reasons. `decisions` holds one plain sentence per automatic choice.

    The fields from `parallel` on concern the s2v engine; the portrait engine leaves them as they are.
    """

    engine: str
    width: int
    height: int
    decisions: tuple[str, ...] = ()
    fps: int = FPS
    parallel: ParallelPlan | None = None
    precision: Precision = "bf16"
    kv_precision: KvPrecision = "bf16"
    offload: Offload = field(default_factory=Offload)
    latents_per_decode: int = 3  # latent frames decoded in one call; 1 needs less memory and more time
    budgets: tuple[MemoryBudget, ...] = ()  # forecast, one per rank

    @property
    def size(self) -> str:
        """Return the size as the operator writes it: "720*400"."""
        return f"{self.width}*{self.height}"

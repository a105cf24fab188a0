"""How a request will be carried out."""

from __future__ import annotations

from dataclasses import dataclass, field

from liveavatar.core.memory import MemoryBudget
from liveavatar.core.parallel import KvPrecision, Offload, ParallelPlan, Precision

FPS = 25


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Where the s2v engine finds its weights, and where it keeps what it computed from them."""

    checkpoint: str  # the folder Wan2.2-S2V-14B
    lora: str  # the file liveavatar.safetensors
    cache: str  # a folder of the engine's own, created when needed


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """The engine, the picture size and the reasons. `decisions` holds one plain sentence per automatic choice.

    The fields from `model` on concern the s2v engine; the portrait engine leaves them as they are.
    """

    engine: str
    width: int
    height: int
    decisions: tuple[str, ...] = ()
    fps: int = FPS
    model: ModelFiles | None = None
    parallel: ParallelPlan | None = None
    precision: Precision = "bf16"
    kv_precision: KvPrecision = "bf16"
    offload: Offload = field(default_factory=Offload)
    latents_per_decode: int = 3  # latent frames decoded in one call; 1 needs less memory and more time
    budgets: tuple[MemoryBudget, ...] = ()  # forecast, one per rank

    def same_engine(self, other: ExecutionPlan) -> bool:
        """Whether an engine that was loaded for one plan can carry out the other: they may differ in the picture."""
        return (
            self.engine == other.engine
            and self.model == other.model
            and self.parallel == other.parallel
            and self.precision == other.precision
            and self.offload == other.offload
        )

    @property
    def size(self) -> str:
        """Return the size as the operator writes it: "720*400"."""
        return f"{self.width}*{self.height}"

"""How a request will be carried out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from liveavatar.core.memory import MemoryBudget
from liveavatar.core.note import Note
from liveavatar.core.parallel import KvPrecision, Offload, ParallelPlan, Precision

FPS = 25

# memory_full: an allocation failed. memory_taken: other programs left less than is needed. asked: by the operator.
# loaded: the engine had already been loaded in another form when the video began.
ChangeCause = Literal["memory_full", "memory_taken", "asked", "loaded"]


@dataclass(frozen=True, kw_only=True)
class PlanChange:
    """One line of a video's receipt: from `first_frame` on it was made otherwise than planned, and why."""

    first_frame: int
    cause: ChangeCause
    before: str  # "704x384, 4 steps, 8-bit weights"
    after: str
    reason: str  # why, one sentence
    remedy: str = ""  # what would have to change for the plan before; empty when the operator asked
    needed_bytes: int = 0  # by the plan before, 0 where that is not known
    available_bytes: int = 0  # to it

    def note(self) -> Note:
        """Return the change as one line for the operator, without what stays as it was."""
        seconds = f"{self.first_frame / FPS:.1f}" if self.first_frame else ""
        start = f"From {seconds} s on" if seconds else "From the start"
        before, after = self.before.split(", "), self.after.split(", ")
        new = ", ".join(part for part in after if part not in before)
        old = ", ".join(part for part in before if part not in after)
        what = f"{new} instead of {old}" if new and old else new or f"no longer {old}"
        return Note(
            code="changed",
            text=f"{start}: {what}. {self.reason} {self.remedy}".rstrip(),
            values={
                "seconds": seconds,
                "new": new,
                "old": old if new else "",
                "dropped": "" if new else old,
                "cause": self.cause,
                "needed_bytes": self.needed_bytes or "",
                "available_bytes": self.available_bytes or "",
            },
        )


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Where the s2v engine finds its weights, and where it keeps what it computed from them."""

    checkpoint: str  # the folder Wan2.2-S2V-14B
    lora: str  # the file liveavatar.safetensors
    cache: str  # a folder of the engine's own, created when needed


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """The engine, the picture size and the reasons. `decisions` holds one note per automatic choice.

    The fields from `model` on concern the s2v engine; the portrait engine leaves them as they are.
    """

    engine: str
    width: int
    height: int
    decisions: tuple[Note, ...] = ()
    fps: int = FPS
    model: ModelFiles | None = None
    parallel: ParallelPlan | None = None
    precision: Precision = "bf16"
    kv_precision: KvPrecision = "bf16"
    fixes_precision: bool = (
        False  # the operator chose that of the weights: a lack of memory does not change it
    )
    fixes_kv_precision: bool = False  # and that of the caches
    offload: Offload = field(default_factory=Offload)
    latents_per_decode: int = 3  # latent frames decoded in one call; 1 needs less memory and more time
    tiled_vae: bool = False  # the autoencoder works on two parts of the picture in turn
    budgets: tuple[MemoryBudget, ...] = ()  # forecast, one per rank
    memory_factors: tuple[
        tuple[str, float], ...
    ] = ()  # (item, what runs on such cards measured over the forecast)
    block_s: float | None = None  # forecast, from one block of pictures to the next

    def same_engine(self, other: ExecutionPlan) -> bool:
        """Whether an engine that was loaded for one plan can carry out the other.

        They may differ in what belongs to a video: picture, steps, caches, and where its prompt is encoded.
        """
        return self._of_the_engine() == other._of_the_engine()

    def _of_the_engine(self) -> tuple[object, ...]:
        parallel = self.parallel
        if parallel is not None:
            parallel = dataclasses.replace(parallel, step_split=(1,) * len(parallel.step_split))
        offload = dataclasses.replace(self.offload, caches=False, text_encoder=False)
        return self.engine, self.model, parallel, self.precision, offload, self.tiled_vae

    @property
    def num_steps(self) -> int:
        """Return the denoising steps of all stages, 0 for an engine that has none."""
        return sum(self.parallel.step_split) if self.parallel else 0

    @property
    def size(self) -> str:
        """Return the size as the operator writes it: "720*400"."""
        return f"{self.width}*{self.height}"

"""How a request will be carried out."""

from __future__ import annotations

from dataclasses import dataclass

FPS = 25


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """The engine, the picture size and the reasons. `decisions` holds one plain sentence per automatic choice."""

    engine: str
    width: int
    height: int
    decisions: tuple[str, ...] = ()
    fps: int = FPS

    @property
    def size(self) -> str:
        """Return the size as the operator writes it: "720*400"."""
        return f"{self.width}*{self.height}"

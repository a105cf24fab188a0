"""Memory and speed of configurations on one group of graphics cards, and what there is to say of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from liveavatar.core.hardware import GpuSpec
from liveavatar.core.memory import MemoryBudget, gb_text
from liveavatar.planning import layouts, memory_model
from liveavatar.planning.calibration import Calibration
from liveavatar.planning.group_memory import GroupMemory, host_bytes
from liveavatar.planning.group_speed import GroupSpeed
from liveavatar.planning.layouts import Configuration
from liveavatar.planning.model_spec import VideoSize
from liveavatar.planning.placement import Slots


@dataclass(frozen=True, kw_only=True)
class Details:
    """What is shown of a candidate."""

    budgets: tuple[MemoryBudget, ...]  # by rank
    rank_seconds: tuple[float, ...]  # work of each rank on one block
    first_frame_seconds: float  # engine loaded, portrait new
    host_bytes: int  # of weights and caches kept in host memory
    reason: str  # why it is as fast as it is, or why it cannot run


class Evaluator:
    """Answers for one group of cards, one picture size."""

    def __init__(
        self,
        gpus: Sequence[GpuSpec],
        host_bytes: int | None,
        size: VideoSize,
        calibration: Calibration,
        slots: Slots = (),
    ) -> None:
        self.num_gpus, self.size = len(gpus), size
        self.memory = GroupMemory(gpus, host_bytes, size, calibration, slots)
        self.speed = GroupSpeed(gpus, size, calibration)

    def details(self, configuration: Configuration, sparest: Configuration | None = None) -> Details:
        """Return all there is to say. `sparest` is what was tried last for a configuration that does not fit."""
        roles = layouts.roles_by_rank(layouts.rank_groups(configuration, self.size))
        budgets = self.memory.budgets(configuration, roles)
        if sparest is not None:
            return Details(
                budgets=budgets,
                rank_seconds=(),
                first_frame_seconds=math.inf,
                host_bytes=0,
                reason=_why_not(budgets, self.memory.missing_bytes(sparest)),
            )
        source = configuration.parallel.source_rank
        if budgets[source].spare_bytes >= memory_model.text_encoder_bytes():
            roles[source] = dataclasses.replace(roles[source], encodes_text=True)
            budgets = self.memory.budgets(configuration, roles)
        return Details(
            budgets=budgets,
            rank_seconds=self.speed.rank_seconds(configuration, roles),
            first_frame_seconds=self.speed.first_frame_seconds(configuration, roles),
            host_bytes=host_bytes(layouts.rank_groups(configuration, self.size)),
            reason=self.speed.why(configuration, roles),
        )


def _why_not(budgets: Sequence[MemoryBudget], missing_at_least: int) -> str:
    worst = max(budgets, key=lambda budget: budget.missing_bytes)
    largest = sorted(worst.items, key=lambda item: item.num_bytes, reverse=True)[:2]
    parts = " and ".join(f"{gb_text(item.num_bytes)} of {item.name}" for item in largest)
    sentence = (
        f"The card of {worst.role} needs {gb_text(worst.needed_bytes)} ({parts})"
        f" and has {gb_text(worst.available_bytes)} to give: {gb_text(worst.missing_bytes)} too few"
    )
    if missing_at_least == 0:
        return f"{sentence}."
    return f"{sentence}, and still {gb_text(missing_at_least)} at its most frugal."

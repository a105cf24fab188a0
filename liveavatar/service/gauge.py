"""What the page's gauge draws of each graphics card: whose memory it is, by item, and what the video needs of it.

Pure functions over what the driver says (HardwareSnapshot), what the engine says (Telemetry) and what was planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from liveavatar.core.events import Telemetry
from liveavatar.core.memory import MemoryItem, gb_text
from liveavatar.core.plan import ExecutionPlan
from liveavatar.monitoring.hardware import GpuSample, HardwareSnapshot
from liveavatar.monitoring.remarks import Remark


@dataclass(frozen=True, kw_only=True)
class CardGauge:
    """One card. `items` sum up to `own_bytes`; both are empty or None where nobody says what is ours.

    `other_bytes`: what programs and the driver hold that are not ours, None where that cannot be told.
    `needed_bytes`: what the plan forecasts for the ranks on this card, None when no rank of it runs here. `peak_bytes`:
    the most in use within the last ten seconds, by the driver's word or the engine's own.
    """

    gpu: GpuSample
    own_bytes: int | None
    items: tuple[MemoryItem, ...]
    other_bytes: int | None
    needed_bytes: int | None
    peak_bytes: int

    @property
    def missing_bytes(self) -> int:
        """Return how much the plan lacks on this card, 0 when it fits or when that is not known."""
        if self.needed_bytes is None:
            return 0
        return max(0, self.needed_bytes + (self.other_bytes or 0) - self.gpu.total_bytes)


def card_gauges(
    hardware: HardwareSnapshot,
    reports: Sequence[Telemetry],
    plan: ExecutionPlan,
    *,
    recent_peaks: Mapping[int, int] | None = None,
) -> tuple[CardGauge, ...]:
    """Return the gauge of every card. `recent_peaks`: by rank, what the driver's readings may have missed."""
    card_of_rank = _cards_of_ranks(hardware.gpus, reports, plan)
    gauges = []
    for gpu in hardware.gpus:
        here = [report for report in reports if card_of_rank.get(report.rank) == gpu.index]
        own_bytes, items = _own(gpu, here)
        other_bytes = None if own_bytes is None else max(0, gpu.used_bytes - own_bytes)
        own_peak = sum((recent_peaks or {}).get(report.rank, 0) for report in here)
        needed = [
            budget.needed_bytes for budget in plan.budgets if card_of_rank.get(budget.rank) == gpu.index
        ]
        gauges.append(
            CardGauge(
                gpu=gpu,
                own_bytes=own_bytes,
                items=items,
                other_bytes=other_bytes,
                needed_bytes=sum(needed) if needed else None,
                peak_bytes=max(gpu.peak_bytes, min(gpu.total_bytes, (other_bytes or 0) + own_peak)),
            )
        )
    return tuple(gauges)


def fit_warnings(gauges: Sequence[CardGauge]) -> list[Remark]:
    """Say on which cards others leave too little for what is planned."""
    remarks = []
    for gauge in gauges:
        if gauge.missing_bytes and gauge.needed_bytes:
            left = max(0, gauge.gpu.total_bytes - (gauge.other_bytes or 0))
            text = (
                f"The next video needs {gb_text(gauge.needed_bytes)} on GPU {gauge.gpu.index + 1}, "
                f"where {gb_text(left)} are left. End other programs there, or a smaller picture is made."
            )
            remarks.append(
                Remark(
                    code="will_not_fit",
                    gpus=(gauge.gpu.index,),
                    values={"needed_bytes": gauge.needed_bytes, "left_bytes": left},
                    text=text,
                )
            )
    return remarks


def _cards_of_ranks(
    gpus: Sequence[GpuSample], reports: Sequence[Telemetry], plan: ExecutionPlan
) -> Mapping[int, int]:
    """Return the card of each rank on this machine: the one it reported, before that the one planned for it.

    Where a card has no UUID, ranks take cards by their number.
    """
    by_uuid = {gpu.uuid: gpu.index for gpu in gpus if gpu.uuid}
    numbers = [gpu.index for gpu in gpus]
    cards = {budget.rank: by_uuid[budget.card] for budget in plan.budgets if budget.card in by_uuid}
    if not any(budget.card for budget in plan.budgets):
        cards = {budget.rank: numbers[budget.rank] for budget in plan.budgets if budget.rank < len(numbers)}
    for report in reports:
        cards.pop(report.rank, None)
        if report.gpu in by_uuid:
            cards[report.rank] = by_uuid[report.gpu]
    return cards


def _own(gpu: GpuSample, reports: Sequence[Telemetry]) -> tuple[int | None, tuple[MemoryItem, ...]]:
    """Return what is ours on a card, and of what it consists as far as the engine said so.

    Where the driver hides programs, or calls them by numbers of its own, the engine's word is taken; its CUDA context
    then counts as others'.
    """
    reserved = sum(report.reserved_bytes for report in reports)
    if not reserved:
        return gpu.own_bytes, ()
    own_bytes = max(reserved, gpu.own_bytes or 0)
    items: dict[str, int] = {}
    for report in reports:
        for item in report.items:
            items[item.name] = items.get(item.name, 0) + item.num_bytes
    items["working memory"] = max(0, reserved - sum(items.values()))
    items["CUDA context"] = own_bytes - reserved
    return own_bytes, tuple(
        MemoryItem(name=name, num_bytes=num_bytes, basis="measured")
        for name, num_bytes in items.items()
        if num_bytes
    )

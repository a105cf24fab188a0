"""Sentences about the machine: what cannot be known of it, who else uses it, and what holds the video up.

Pure functions over readings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from liveavatar.core.memory import GIB, gb_text
from liveavatar.core.note import Note
from liveavatar.monitoring.readings import GpuReading, Reading, Unreadable

_BOOKKEEPING_BYTES, _BOOKKEEPING_SHARE = 0.5 * GIB, 0.01
_CULPRIT_BYTES = 2 * GIB
_CULPRIT_SHARE = 0.1
_MAX_NAMED_PROGRAMS = 2


@dataclass(frozen=True, kw_only=True)
class Remark(Note):
    """A note about the machine, whose text numbers cards from 1.

    `gpus`: indices of the cards it is about, empty for the whole machine.
    """

    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Whose memory it is on one card. `own_bytes` is None where the driver does not say."""

    own_bytes: int | None
    programs: tuple[tuple[str, int], ...]  # other programs by name, largest first
    unnamed_bytes: int  # in use by somebody the driver does not name

    @property
    def other_bytes(self) -> int | None:
        """Return what others use, named or not; None where ours cannot be told from theirs."""
        if self.own_bytes is None:
            return None
        return sum(num_bytes for _, num_bytes in self.programs) + self.unnamed_bytes


def memory_use(gpu: GpuReading) -> MemoryUse:
    """Divide a card's used memory among programs as far as the driver's list goes."""
    processes = gpu.processes or ()
    own = sum(process.num_bytes or 0 for process in processes if process.is_ours)
    by_name: dict[str, int] = {}
    for process in processes:
        if not process.is_ours and process.num_bytes:
            by_name[process.name] = by_name.get(process.name, 0) + process.num_bytes
    used = gpu.used_bytes if gpu.used_when_listed is None else gpu.used_when_listed
    unlisted = used - (gpu.reserved_bytes or 0) - own - sum(by_name.values())
    unnamed = by_name.pop("", 0) + (unlisted if unlisted > _bookkeeping_bytes(gpu) else 0)
    ours_without_amount = any(process.is_ours and process.num_bytes is None for process in processes)
    is_known = not ours_without_amount and (own > 0 or unnamed == 0)
    return MemoryUse(
        own_bytes=own if is_known else None,
        programs=tuple(sorted(by_name.items(), key=lambda item: -item[1])),
        unnamed_bytes=unnamed,
    )


def _bookkeeping_bytes(gpu: GpuReading) -> float:
    """Return what the driver may use without listing a program for it."""
    return max(_BOOKKEEPING_BYTES, _BOOKKEEPING_SHARE * gpu.total_bytes)


def culprits(reading: Reading) -> list[Remark]:
    """Name the programs that take much of a card's memory from us."""
    remarks = []
    for gpu in reading.gpus:
        use = memory_use(gpu)
        others = use.other_bytes or 0
        if others < max(_CULPRIT_BYTES, _CULPRIT_SHARE * gpu.total_bytes):
            continue
        named = ", ".join(
            f"{name} {gb_text(num_bytes)}" for name, num_bytes in use.programs[:_MAX_NAMED_PROGRAMS]
        )
        remarks.append(
            Remark(
                code="other_programs",
                gpus=(gpu.index,),
                values={"other_bytes": others, "programs": named},
                text=f"Other programs use {gb_text(others)} on GPU {gpu.index + 1}"
                + (f" ({named})" if named else "")
                + ". End them to make room for larger pictures.",
            )
        )
    return remarks


def unknowns(reading: Reading, *, is_wsl: bool) -> list[Remark]:
    """Say what the driver does not tell, one sentence for all cards that it is true of."""
    remarks = [_unreadable(each) for each in reading.unreadable]
    slices = [gpu.index for gpu in reading.gpus if gpu.is_slice]
    if slices:
        text = f"{_cards(slices)} are slices of a divided card (MIG); only their memory is known."
        remarks.append(Remark(code="slices", gpus=tuple(slices), text=text))
    hidden = [gpu.index for gpu in reading.gpus if memory_use(gpu).own_bytes is None]
    if hidden and is_wsl:
        text = "Under WSL the driver does not say which program uses how much graphics memory."
        remarks.append(Remark(code="wsl", gpus=tuple(hidden), text=text))
    elif hidden:
        text = (
            f"The driver does not say whose memory is in use on {_cards(hidden)}, as is usual in containers; "
            "our share cannot be told from that of others."
        )
        remarks.append(Remark(code="programs_hidden", gpus=tuple(hidden), text=text))
    by_field: dict[tuple[str, ...], list[int]] = {}
    for gpu in reading.gpus:
        missing = _missing_fields(gpu)
        if missing and not gpu.is_slice:
            by_field.setdefault(missing, []).append(gpu.index)
    for missing, indices in by_field.items():
        verb = "does" if len(indices) == 1 else "do"
        text = f"{_cards(indices)} {verb} not report {', '.join(name.replace('_', ' ') for name in missing)}."
        remarks.append(
            Remark(code="not_reported", gpus=tuple(indices), values={"fields": ", ".join(missing)}, text=text)
        )
    return remarks


def _missing_fields(gpu: GpuReading) -> tuple[str, ...]:
    fields = {
        "utilisation": gpu.utilisation,
        "temperature": gpu.temperature,
        "power": gpu.power_w,
    }
    return tuple(name for name, value in fields.items() if value is None)


def _unreadable(card: Unreadable) -> Remark:
    gpus, number = (card.index,), card.index + 1
    if card.code == "lost":
        text = f"GPU {number} is gone: it was unplugged or fell off the bus."
        return Remark(code="lost", gpus=gpus, text=text)
    if card.code == "no_memory":
        text = f"GPU {number} ({card.name}) does not say how much memory it has."
        return Remark(code="no_memory", gpus=gpus, text=text)
    text = f"GPU {number} ({card.name}) does not answer ({card.reason})."
    return Remark(code="silent", gpus=gpus, text=text)


def _cards(indices: Sequence[int]) -> str:
    """Return "GPU 1", "GPU 1, 2 and 4" or "GPU 1 to 5"."""
    numbers = [index + 1 for index in indices]
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"GPU {numbers[0]} to {numbers[-1]}"
    if len(numbers) == 1:
        return f"GPU {numbers[0]}"
    return f"GPU {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"

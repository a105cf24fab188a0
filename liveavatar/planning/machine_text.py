"""Machines as people write them: "5x24", "4x4090", "1xH100-80G", "2x RTX 6000 Ada", "2x4090 + 1xA100"."""

from __future__ import annotations

import dataclasses
import re

from liveavatar.core.errors import Diagnosis, InputRejected
from liveavatar.core.hardware import GpuSpec, Machine
from liveavatar.core.memory import GIB
from liveavatar.planning.hardware_table import CARDS, card_of_size, find_card, printed_memory, typical_name

MAX_GPUS, MAX_KINDS = 64, 4
_SMALLEST_GB, _LARGEST_GB = 4, 512
_NAME_TOLERANCE = 0.15  # "H100-80G": the printed size may be a little off the table's, as with 141 and 144 GB

_LONGEST = 200  # characters
_HOST_MEMORY_GB = {"GH200": 480}  # what drivers print behind its name instead of the card's own

_GROUP = re.compile(r"(?P<count>-?\d+)\s*[x×*]\s*(?P<card>.*)", re.IGNORECASE)
_MEMORY = re.compile(r"(?P<gb>-?\d+(?:\.\d+)?)\s*(?:g|gb|gib)?(?:\s+cards?)?", re.IGNORECASE)


def parse_machine(text: str, *, host_bytes: int | None = None) -> Machine:
    """Return the machine that `text` describes. Raise InputRejected with one sentence when it makes no sense."""
    if len(text) > _LONGEST:
        raise _rejected(f"{text[:20]}…", f"It is longer than {_LONGEST} characters.")
    gpus: list[GpuSpec] = []
    for group in text.split("+"):
        gpus += _parse_group(group.strip(), text)
    if len(gpus) > MAX_GPUS:
        raise _rejected(text, f"{len(gpus)} cards are more than the {MAX_GPUS} that can be planned for.")
    if len({gpu.name for gpu in gpus}) > MAX_KINDS:
        raise _rejected(text, f"More than {MAX_KINDS} kinds of cards cannot be planned for together.")
    return Machine(gpus=tuple(gpus), host_bytes=host_bytes)


def assumption(text: str) -> str:
    """Return a sentence about what was read into cards given by their memory alone, empty when there are none."""
    sizes = [
        float(memory["gb"])
        for group in text.split("+")
        if (match := _GROUP.fullmatch(group.strip())) and (memory := _MEMORY.fullmatch(match["card"].strip()))
    ]
    sizes = [size for size in sizes if find_card(f"{size:g}") is None]
    if not sizes:
        return ""
    names = " and ".join(f"{size:g} GB as {typical_name(size)}" for size in dict.fromkeys(sizes))
    return f"Speeds are those of a typical card of that memory ({names}); name the card for a closer answer."


def _parse_group(group: str, text: str) -> list[GpuSpec]:
    match = _GROUP.fullmatch(group)
    if match is None:
        if find_card(group) is not None:
            raise _rejected(text, f"It does not say how many: write 1x{group}.")
        raise _rejected(text, "It is not a count, an x and a card.")
    count = int(match["count"])
    if not 1 <= count <= MAX_GPUS:
        raise _rejected(text, f"{count} cards cannot be planned for; 1 to {MAX_GPUS} can.")
    card = match["card"].strip()
    if not card:
        raise _rejected(text, "No card is named after the x.")
    return [_parse_card(card, text)] * count


def _parse_card(card: str, text: str) -> GpuSpec:
    memory = _MEMORY.fullmatch(card)
    row = find_card(card)
    if memory and row is None:
        printed_gb = float(memory["gb"])
        if not _SMALLEST_GB <= printed_gb <= _LARGEST_GB:
            raise _rejected(
                text, f"No card has {printed_gb:g} GB; {_SMALLEST_GB} to {_LARGEST_GB} are taken."
            )
        return card_of_size(printed_gb)
    if row is None:
        raise _rejected(text, f"“{card}” is not a card in the table.")
    said_gb = printed_memory(card)
    if said_gb is None or said_gb == _HOST_MEMORY_GB.get(row.spec.name):
        return row.spec
    if abs(said_gb - row.printed_gb) > _NAME_TOLERANCE * row.printed_gb:
        raise _rejected(text, f"The {row.spec.name} has {row.printed_gb} GB, not {said_gb:g}.")
    scale = min(1.0, said_gb / row.printed_gb)
    return dataclasses.replace(row.spec, total_bytes=int(row.spec.total_bytes * scale))


def _rejected(text: str, cause: str) -> InputRejected:
    names = ", ".join(row.spec.name for row in CARDS)
    return InputRejected(
        Diagnosis(
            code="unknown_gpus",
            title=f"The graphics cards “{text}” cannot be read.",
            cause=cause,
            remedy=f"Write for example 5x24, 4x4090 or 2x RTX 6000 Ada. Cards: {names}; or a memory size in GB.",
            facts={"text": text, "cards": names},
        )
    )


def spec_of_installed(
    *, name: str, total_bytes: int, used_bytes: int, driver: str = "", uuid: str = "", machine: str = ""
) -> tuple[GpuSpec, str]:
    """Return a card found in this machine, and a sentence when its speed had to be assumed."""
    row = find_card(name)
    spec = row.spec if row else card_of_size(max(_SMALLEST_GB, total_bytes / GIB))
    found = dataclasses.replace(
        spec, name=row.spec.name if row else name, total_bytes=total_bytes,
        other_programs_bytes=min(used_bytes, total_bytes), driver=driver, uuid=uuid, machine=machine,
    )  # fmt: skip
    sentence = (
        "" if row else f"{name} is not in the table; its speed is taken from a card with as much memory."
    )
    return found, sentence

"""Which single change would bring a larger size, or real time: more cards, other cards, fewer steps, fewer programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from liveavatar.core.hardware import Machine
from liveavatar.core.memory import gb_text
from liveavatar.core.note import Note
from liveavatar.planning.candidates import Candidate, candidates, first_to_reach, reaches
from liveavatar.planning.choice import (
    ANY_SPEED,
    REAL_TIME_FPS,
    WIDESCREEN,
    Choice,
    auto_sizes,
    largest_to_reach,
)
from liveavatar.planning.hardware_table import CARDS
from liveavatar.planning.layouts import MAX_WORLD
from liveavatar.planning.model_spec import VideoSize
from liveavatar.planning.wishes import Wishes


def advise(choice: Choice) -> tuple[str, ...]:
    """Return plain sentences, each checked with the planner itself."""
    best = choice.best
    if best is None:
        return _all(_to_fit_at_all(choice))
    sentences = [*_to_larger_size(choice)]
    if best.fps < REAL_TIME_FPS:
        sentences += _to_real_time(choice)
    return _all(iter(sentences))


def why_smaller(choice: Choice) -> tuple[Note, ...]:
    """Return why the size that was asked for is not made, and what would have to change; nothing where it is made."""
    asked, machine = choice.sizes[0], choice.machine
    if not choice.size_was_fixed or choice.size == asked or not machine.gpus:
        return ()
    closest = next(iter(candidates(machine, asked, choice.wishes, choice.calibration)), None)
    others = sum(gpu.other_programs_bytes for gpu in machine.gpus)
    emptied = dataclasses.replace(
        machine, gpus=tuple(dataclasses.replace(gpu, other_programs_bytes=0) for gpu in machine.gpus)
    )
    notes = (_why_too_large(closest),) if closest else ()
    if others and _reaches(choice, asked, ANY_SPEED, machine=emptied):
        text = f"{asked} would fit if other programs gave back their {gb_text(others)}."
        return (
            *notes,
            Note(code="fits_without_others", text=text, values={"size": str(asked), "other_bytes": others}),
        )
    ways = _ways(choice, asked, ANY_SPEED)
    text = _would_take(ways, f"{asked}")
    if not ways:
        return (*notes, Note(code="out_of_reach", text=text, values={"size": str(asked)}))
    return (*notes, Note(code="would_take", text=text, values={"size": str(asked), "ways": ", ".join(ways)}))


def _why_too_large(closest: Candidate) -> Note:
    return Note(
        code="too_large", text=closest.details.reason, values={"missing_bytes": closest.missing_bytes}
    )


def _to_fit_at_all(choice: Choice) -> Iterator[str]:
    left_open = dataclasses.replace(choice.wishes, precision=None, kv_precision=None)
    if left_open != choice.wishes and _reaches(choice, choice.size, ANY_SPEED, wishes=left_open):
        yield f"{choice.size} fits when the precision of weights and caches is left open."
    smaller = _largest_smaller(choice, ANY_SPEED)
    if smaller is not None:
        yield f"{smaller} fits on these cards."
    yield _would_take(_ways(choice, choice.size, ANY_SPEED), f"{choice.size}")


def _to_larger_size(choice: Choice) -> Iterator[str]:
    """Yield what the next larger of the automatic sizes would take."""
    if choice.size_was_fixed or choice.size == choice.sizes[0]:
        return
    larger = choice.sizes[choice.sizes.index(choice.size) - 1]
    ways = _ways(choice, larger, choice.min_fps)
    yield _would_take(ways, f"{larger} at {choice.min_fps:g} pictures per second")


def _to_real_time(choice: Choice) -> Iterator[str]:
    smaller = _largest_smaller(choice, REAL_TIME_FPS)
    if smaller is not None:
        yield f"Real time ({REAL_TIME_FPS} pictures per second) is reached at {smaller}."
    yield _would_take(_ways(choice, choice.size, REAL_TIME_FPS), f"Real time at {choice.size}")


def _largest_smaller(choice: Choice, fps: float) -> VideoSize | None:
    """Return the largest of the smaller sizes of the same shape that is made at `fps` or more."""
    sizes = choice.sizes
    if choice.size_was_fixed:
        across = choice.size.width >= choice.size.height
        sizes = auto_sizes(WIDESCREEN if across else (WIDESCREEN[1], WIDESCREEN[0]))
    smaller = [size for size in sizes if size.pixels < choice.size.pixels]
    return largest_to_reach(choice.machine, smaller, fps, choice.wishes, choice.calibration)


def _reaches(
    choice: Choice,
    size: VideoSize,
    fps: float,
    *,
    machine: Machine | None = None,
    wishes: Wishes | None = None,
) -> bool:
    """Return whether the machine, or another one, or other wishes, would do."""
    return reaches(machine or choice.machine, size, fps, wishes or choice.wishes, choice.calibration)


def _ways(choice: Choice, size: VideoSize, fps: float) -> list[str]:
    """Return the smallest change of each kind that is enough."""
    ways = (
        _more_cards(choice, size, fps),
        _other_card(choice, size, fps),
        _fewer_steps(choice, size, fps),
    )
    return [way for way in ways if way]


def _would_take(ways: list[str], goal: str) -> str:
    """Return "GOAL would take A, or B.", or that no single change is enough."""
    if not ways:
        return f"{goal} is out of reach with one change to this machine."
    return f"{goal} would take {', or '.join(ways)}."


def _more_cards(choice: Choice, size: VideoSize, fps: float) -> str:
    gpus = choice.machine.gpus
    if not gpus or len({gpu.name for gpu in gpus}) > 1:
        return ""
    most = min(MAX_WORLD, 2 * len(gpus) + 3)
    if most <= len(gpus):
        return ""
    machine = dataclasses.replace(choice.machine, gpus=(gpus[0],) * most)
    found = first_to_reach(machine, size, fps, choice.wishes, choice.calibration)
    if found is None:
        return ""
    return f"{max(found.configuration.parallel.world_size, len(gpus) + 1)} x {gpus[0].name}"


def _other_card(choice: Choice, size: VideoSize, fps: float) -> str:
    count = max(1, len(choice.machine.gpus))
    names = {gpu.name for gpu in choice.machine.gpus}
    for row in sorted(CARDS, key=lambda row: (row.printed_gb, row.spec.bf16_flops)):
        machine = Machine(gpus=(row.spec,) * count, host_bytes=choice.machine.host_bytes)
        if row.spec.name not in names and _reaches(choice, size, fps, machine=machine):
            return f"{count} x {row.spec.name}"
    return ""


def _fewer_steps(choice: Choice, size: VideoSize, fps: float) -> str:
    most = 0
    for num_steps in range(2, choice.wishes.num_steps):  # one step alone is not worth watching
        wishes = dataclasses.replace(choice.wishes, num_steps=num_steps)
        if not _reaches(choice, size, fps, wishes=wishes):
            break  # with more steps it takes longer, and more memory
        most = num_steps
    return f"{most} steps with less detail" if most else ""


def _all(sentences: Iterator[str]) -> tuple[str, ...]:
    return tuple(sentence for sentence in sentences if sentence)

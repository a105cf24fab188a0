"""A choice as an operator reads it in a terminal, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from liveavatar.core.memory import MemoryBudget, gb_digits, gb_text
from liveavatar.core.parallel import ParallelPlan
from liveavatar.planning.candidates import Candidate
from liveavatar.planning.choice import REAL_TIME_FPS, Choice
from liveavatar.planning.plan_notes import plan_notes

_ITEMS_SHOWN = 3  # the largest of a rank; the others are summed
_WIDTH = 110  # columns of running text


def as_text(choice: Choice, notes: Sequence[str], advice: Sequence[str], *, show_all: bool = False) -> str:
    """Return the report: the best plan with its memory, the others, those that cannot run, and advice."""
    lines = [*_wrapped(_headline(choice)), *_wrapped(*notes)]
    if choice.machine.gpus:
        lines += ["", *_best_lines(choice)]
    running = [candidate for candidate in choice.candidates if candidate.fits]
    shown = running if show_all else best_of_each_kind(running)
    if len(shown) > 1:
        lines += ["", "Plans that run" if show_all else "Plans that run, the best of each kind"]
        lines += _table(
            ("pictures/s", "first picture", "cards", "videos", "plan"), map(_running_row, shown), 4
        )
    lines += _rejected_lines(choice, show_all=show_all)
    if advice:
        lines += ["", "Advice", *_wrapped(*advice, indent=2)]
    return "\n".join(lines)


def as_json(choice: Choice, notes: Sequence[str], advice: Sequence[str]) -> dict[str, Any]:
    """Return the same as plain values; bytes and seconds, nothing rounded."""
    best = choice.best
    return {
        "machine": {
            "description": choice.machine.describe(),
            "gpus": [
                {"name": gpu.name, "total_bytes": gpu.total_bytes, "free_bytes": gpu.free_bytes}
                for gpu in choice.machine.gpus
            ],
            "host_bytes": choice.machine.host_bytes,
        },
        "width": choice.size.width,
        "height": choice.size.height,
        "steps": choice.wishes.num_steps,
        "fits": best is not None,
        "best": None if best is None else _candidate_json(best, with_budgets=True),
        "decisions": [note.text for note in (*choice.decisions, *(plan_notes(best) if best else ()))],
        "notes": list(notes),
        "advice": list(advice),
        "plans": [_candidate_json(candidate) for candidate in choice.candidates if candidate.fits],
        "rejected": [
            {"plan": candidate.configuration.describe(), "reason": candidate.details.reason}
            for candidate in _simplest_first(
                candidate for candidate in choice.candidates if not candidate.fits
            )
        ]
        + [{"plan": name, "reason": reason} for name, reason in choice.ruled_out],
    }


def best_of_each_kind(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the first plan of each kind, precision and place of its data; the input is sorted, the best first."""
    first: dict[tuple[object, ...], Candidate] = {}
    for candidate in candidates:
        first.setdefault(_kind_and_precision(candidate), candidate)
    return list(first.values())


def _rejected_lines(choice: Choice, *, show_all: bool) -> list[str]:
    """Return what does not fit, unless all is shown only kinds of which nothing fits, the closest of each."""
    rejected = [candidate for candidate in choice.candidates if not candidate.fits]
    shown = rejected
    if not show_all:
        running = {_kind_and_precision(candidate) for candidate in choice.candidates if candidate.fits}
        shown = [each for each in best_of_each_kind(rejected) if _kind_and_precision(each) not in running]
    shown = _simplest_first(shown)
    if not shown and not choice.ruled_out:
        return []
    lines = [
        "",
        "Plans that do not run" if show_all else "Kinds of plans that do not run, the closest of each",
    ]
    for candidate in shown:
        lines += [f"  {_name(candidate, choice)}", *_wrapped(candidate.details.reason, indent=4)]
    for name, reason in choice.ruled_out:
        lines += [f"  {name}", *_wrapped(reason, indent=4)]
    if len(shown) < len(rejected):
        lines.append(f"  and {len(rejected) - len(shown)} variants of these; --all shows them")
    return lines


def _kind_and_precision(candidate: Candidate) -> tuple[object, ...]:
    configuration = candidate.configuration
    return (*_kind(configuration.parallel), configuration.precision, configuration.offload.is_used)


def _kind(parallel: ParallelPlan) -> tuple[bool, ...]:
    return (
        parallel.world_size > 1,
        len(parallel.step_split) > 1,
        parallel.tensor > 1,
        parallel.layer_parts > 1,
        parallel.weights_sharded,
    )


def _simplest_first(rejected: Iterable[Candidate]) -> list[Candidate]:
    """Return plans with fewer techniques and 16-bit weights before others."""
    return sorted(
        rejected,
        key=lambda candidate: (
            sum(_kind(candidate.configuration.parallel)),
            candidate.configuration.precision == "fp8",
            -candidate.missing_bytes,
        ),
    )


def _headline(choice: Choice) -> str:
    gpus = choice.machine.gpus
    if not gpus:
        return "No graphics card. The s2v engine needs one; the portrait engine runs without."
    memory = " and ".join(dict.fromkeys(gb_text(gpu.total_bytes) for gpu in gpus))
    used = sum(gpu.other_programs_bytes for gpu in gpus)
    others = f", {gb_text(used)} of it taken by other programs" if used else ""
    return f"{choice.machine.describe()}, {memory} each{others}"


def _best_lines(choice: Choice) -> Iterator[str]:
    best = choice.best
    if best is None:
        yield f"Nothing fits at {choice.size}."
        return
    details = best.details
    yield f"Size    {choice.size}, {choice.wishes.num_steps} steps"
    yield f"Plan    {best.configuration.describe()}"
    yield (
        f"Speed   {best.fps:.1f} pictures per second ({best.fps / REAL_TIME_FPS:.0%} of real time),"
        f" first picture after {details.first_frame_seconds:.1f} s (predicted)"
    )
    if best.streams > 1:
        yield f"        {best.streams} videos at a time"
    yield ""
    yield "Memory in GB, forecast"
    yield from _table(
        ("rank", "card", "does", "needs", "may use", "of it"), map(_budget_row, details.budgets), 0
    )
    yield ""
    yield from _wrapped(*(note.text for note in (*choice.decisions, *plan_notes(best))))


def _budget_row(budget: MemoryBudget) -> tuple[str, ...]:
    items = sorted(budget.items, key=lambda item: item.num_bytes, reverse=True)
    words = [f"{item.name} {gb_digits(item.num_bytes)}" for item in items[:_ITEMS_SHOWN]]
    others = sum(item.num_bytes for item in items[_ITEMS_SHOWN:])
    words.append(f"other {gb_digits(others)}")
    return (
        str(budget.rank),
        budget.gpu,
        budget.role,
        gb_digits(budget.needed_bytes),
        gb_digits(budget.available_bytes),
        ", ".join(words),
    )


def _running_row(candidate: Candidate) -> tuple[str, ...]:
    return (
        f"{candidate.fps:.1f}",
        f"{candidate.details.first_frame_seconds:.1f} s",
        str(candidate.configuration.parallel.world_size),
        str(candidate.streams),
        candidate.configuration.describe(),
    )


def _name(candidate: Candidate, choice: Choice) -> str:
    """Return the plan's name; one card for all steps is also what independent copies on every card are."""
    name = candidate.configuration.describe()
    if candidate.configuration.parallel.world_size == 1 and len(choice.machine.gpus) > 1:
        return f"{name} (also as {len(choice.machine.gpus)} independent copies)"
    return name


def _wrapped(*sentences: str, indent: int = 0) -> list[str]:
    """Return running text in lines; every sentence starts one."""
    space = " " * indent
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(sentence, _WIDTH, initial_indent=space, subsequent_indent=space)
    ]


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]], num_right: int) -> list[str]:
    """Return aligned lines; the first `num_right` columns and numbers of GB stand on the right."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    right = {
        column for column, name in enumerate(header) if column < num_right or name in ("needs", "may use")
    }
    return [
        "  "
        + "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _candidate_json(candidate: Candidate, *, with_budgets: bool = False) -> dict[str, Any]:
    assert candidate.fits, "only plans that fit have a speed"
    configuration, details = candidate.configuration, candidate.details
    parallel = configuration.parallel
    row: dict[str, Any] = {
        "plan": configuration.describe(),
        "fps": candidate.fps,
        "first_frame_seconds": details.first_frame_seconds,
        "host_bytes": details.host_bytes,
        "block_seconds": candidate.block_seconds,
        "rank_seconds": details.rank_seconds,
        "ranks": parallel.world_size,
        "videos_at_a_time": candidate.streams,
        "step_split": parallel.step_split,
        "tensor": parallel.tensor,
        "layer_parts": parallel.layer_parts,
        "weights_sharded": parallel.weights_sharded,
        "decoder_has_own_rank": parallel.decoder_has_own_rank,
        "precision": configuration.precision,
        "kv_precision": configuration.kv_precision,
        "needed_bytes": max(budget.needed_bytes for budget in details.budgets),
        "reason": details.reason,
    }
    if with_budgets:
        row["ranks_in_detail"] = [
            {
                "rank": budget.rank,
                "role": budget.role,
                "gpu": budget.gpu,
                "available_bytes": budget.available_bytes,
                "needed_bytes": budget.needed_bytes,
                "items": [
                    {"name": item.name, "bytes": item.num_bytes, "basis": item.basis} for item in budget.items
                ],
            }
            for budget in details.budgets
        ]
    return row

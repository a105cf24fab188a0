"""python -m liveavatar doctor: is a checkpoint whole, in which precision is it, and what does it need?

Reads file headers only. With --record it writes down what graphics cards, memory and processor do, for a report.
Exit codes: 0 it can be used or was recorded, 1 something is missing or damaged, 2 nothing could be recorded.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from liveavatar.core.memory import gb_text
from liveavatar.core.parallel import Precision
from liveavatar.diagnostics.doctor import CheckpointReport, Part, inspect_checkpoint
from liveavatar.monitoring.trace import record
from liveavatar.planning.memory_model import RankRole, forecast_bytes
from liveavatar.planning.model_spec import VideoSize

USABLE, UNUSABLE, NOT_RECORDED = 0, 1, 2

_PUBLISHED_PARAMETERS = 16_295_755_609
_SIZES = (VideoSize(384, 256), VideoSize(704, 384), VideoSize(1280, 704))
_PRECISIONS: tuple[Precision, ...] = ("bf16", "fp8")
_STEPS = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path, help="the folder Wan2.2-S2V-14B")
    what.add_argument("--record", type=Path, metavar="FILE", help="record what the machine does into FILE")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="length of the recording, 30 if not given"
    )
    parser.add_argument(
        "--lora", type=Path, help="liveavatar.safetensors, where it is not inside or beside it"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(options: argparse.Namespace) -> int:
    """Print what the folder holds, or record the machine; return the exit code."""
    if options.record is not None:
        return _record(options.record, options.seconds)
    report = inspect_checkpoint(options.checkpoint, options.lora)
    text = json.dumps(_as_json(report), indent=2) if options.json else "\n".join(_lines(report))
    sys.stdout.write(text + "\n")
    return USABLE if report.is_usable else UNUSABLE


def _record(path: Path, seconds: float) -> int:
    try:
        count = record(path, seconds=seconds)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"Nothing was recorded: {error}\n")
        return NOT_RECORDED
    sys.stdout.write(f"{count} readings in {path}\n")
    return USABLE


def _lines(report: CheckpointReport) -> list[str]:
    lines = [_part_line(part) for part in report.parts]
    lines += ["", *(problem.sentence() for problem in report.problems)] if report.problems else []
    if report.is_usable:
        lines += ["", "The checkpoint is whole.", *_memory_lines(report)]
    return lines


def _part_line(part: Part) -> str:
    if part.problems:
        return f"{part.name:18} PROBLEM"
    if not part.tensors:
        return f"{part.name:18} ok"
    amount = f"{len(part.tensors)} tensors, {part.num_parameters / 1e9:.3f} billion parameters"
    return f"{part.name:18} ok   {amount}, {part.precision}, {gb_text(part.num_bytes)}"


def _memory_lines(report: CheckpointReport) -> list[str]:
    return [
        f"One GPU that makes {size} alone needs about "
        + " or ".join(f"{gb_text(num_bytes)} ({precision})" for precision, num_bytes in needed.items())
        + "."
        for size, needed in _memory_needed(report).items()
    ]


def _memory_needed(report: CheckpointReport) -> dict[str, dict[str, int]]:
    """Return bytes by picture size and precision; nothing for a model of another size than the published."""
    if report.part("transformer").num_parameters != _PUBLISHED_PARAMETERS:
        return {}
    return {
        str(size): {precision: _bytes_needed(size, precision) for precision in _PRECISIONS} for size in _SIZES
    }


def _bytes_needed(size: VideoSize, precision: Precision) -> int:
    role = RankRole(
        size=size, num_steps=_STEPS, precision=precision, latents_per_decode=1, encodes_speech=True
    )
    return forecast_bytes(role)


def _as_json(report: CheckpointReport) -> dict[str, object]:
    return {
        "usable": report.is_usable,
        "parts": [
            {
                "name": part.name,
                "ok": not part.problems,
                "tensors": len(part.tensors),
                "parameters": part.num_parameters,
                "bytes": part.num_bytes,
                "precision": part.precision,
            }
            for part in report.parts
        ],
        "problems": [dataclasses.asdict(problem) for problem in report.problems],
        "bytes_needed": _memory_needed(report) if report.is_usable else {},
    }

"""python -m liveavatar plan: what of the s2v engine would run on these graphics cards, how fast, and why not more.

Loads nothing and needs no graphics card. Exit codes: 0 something fits, 1 nothing does, 2 the question makes no sense.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from liveavatar.config import AppConfig
from liveavatar.core.errors import Diagnosis, InputRejected
from liveavatar.core.hardware import Machine
from liveavatar.core.memory import GIB
from liveavatar.core.parallel import KV_PRECISIONS, PRECISIONS
from liveavatar.core.request import AUTO
from liveavatar.monitoring.hardware import HardwareMonitor, HardwareSnapshot
from liveavatar.monitoring.visible_cards import visible_cards
from liveavatar.planning import report
from liveavatar.planning.advice import advise
from liveavatar.planning.calibration import NOTHING_MEASURED, Calibration, load_calibration
from liveavatar.planning.choice import DEFAULT_MIN_FPS, choose
from liveavatar.planning.machine_text import assumption, parse_machine, spec_of_installed
from liveavatar.planning.model_spec import MAX_STEPS
from liveavatar.planning.wishes import Wishes

FITS, FITS_NOT, REJECTED = 0, 1, 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--gpus",
        help="for example 5x24, 4x4090, 1xH100-80G, '2x RTX 6000 Ada'; without it, this machine's cards",
    )
    parser.add_argument(
        "--host-memory", type=float, metavar="GB", help="host memory of the machine of --gpus"
    )
    parser.add_argument("--size", default=AUTO, help="auto, or a size such as 720*400")
    parser.add_argument(
        "--min-fps",
        type=float,
        default=DEFAULT_MIN_FPS,
        help=f"pictures per second that an automatic size must reach (default {DEFAULT_MIN_FPS:g}; 25 is real time)",
    )
    parser.add_argument(
        "--steps", type=int, default=MAX_STEPS, choices=range(1, MAX_STEPS + 1), help="denoising steps"
    )
    parser.add_argument("--precision", default=AUTO, choices=(AUTO, *PRECISIONS), help="of the weights")
    parser.add_argument(
        "--kv",
        default=AUTO,
        choices=(AUTO, *KV_PRECISIONS),
        help="of cached keys and values; int8: Hopper only",
    )
    parser.add_argument("--all", action="store_true", help="show every plan")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def run(options: argparse.Namespace) -> int:
    """Answer; return the exit code."""
    try:
        machine, notes, calibration = _machine(options)
        if options.min_fps <= 0:
            raise _bad_number("--min-fps", options.min_fps)
        choice = choose(
            machine,
            size=options.size,
            wishes=_wishes(options),
            min_fps=options.min_fps,
            calibration=calibration,
        )
    except InputRejected as error:
        _reject(error.diagnosis, as_json=options.json)
        return REJECTED
    advice = advise(choice)
    if options.json:
        sys.stdout.write(json.dumps(report.as_json(choice, notes, advice), indent=2) + "\n")
    else:
        sys.stdout.write(report.as_text(choice, notes, advice, show_all=options.all) + "\n")
    return FITS if choice.best else FITS_NOT


def _wishes(options: argparse.Namespace) -> Wishes:
    return Wishes(
        num_steps=options.steps,
        precision=None if options.precision == AUTO else options.precision,
        kv_precision=None if options.kv == AUTO else options.kv,
    )


def _machine(options: argparse.Namespace) -> tuple[Machine, list[str], Calibration]:
    """Return the machine, what had to be assumed about it, and what was measured on it."""
    if options.host_memory is not None and options.host_memory <= 0:
        raise _bad_number("--host-memory", options.host_memory)
    if options.gpus is not None:
        host_bytes = None if options.host_memory is None else int(options.host_memory * GIB)
        machine = parse_machine(options.gpus, host_bytes=host_bytes)
        sentence = assumption(options.gpus)
        return machine, [sentence] if sentence else [], NOTHING_MEASURED
    config, snapshot = AppConfig.from_environment(), HardwareMonitor().snapshot()
    snapshot = dataclasses.replace(snapshot, gpus=visible_cards(snapshot.gpus, config.visible_cards))
    calibration = load_calibration(config.data_dir / "calibration.json")
    return *installed_machine(snapshot), calibration


def installed_machine(snapshot: HardwareSnapshot) -> tuple[Machine, list[str]]:
    """Return this machine, and sentences about what had to be assumed."""
    gpus, notes = [], [snapshot.problem] if snapshot.problem else []
    for sample in snapshot.gpus:
        spec, sentence = spec_of_installed(
            name=sample.name,
            total_bytes=sample.total_bytes,
            used_bytes=sample.used_bytes,
            driver=snapshot.driver,
        )
        gpus.append(spec)
        if sentence and sentence not in notes:
            notes.append(sentence)
    return Machine(gpus=tuple(gpus), host_bytes=snapshot.host_total_bytes), notes


def _bad_number(option: str, value: float) -> InputRejected:
    return InputRejected(
        Diagnosis(
            code="bad_number",
            title=f"{option} cannot be {value:g}.",
            cause="It must be more than 0.",
            remedy=f"Choose another {option}.",
        )
    )


def _reject(diagnosis: Diagnosis, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"error": dataclasses.asdict(diagnosis)}) + "\n")
    else:
        sys.stderr.write(diagnosis.sentence() + "\n")

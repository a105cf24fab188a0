"""Recordings of the machine as JSON lines: a header, then one reading per line. See docs/monitoring.md."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from liveavatar.core import wire
from liveavatar.monitoring.hardware import HardwareMonitor
from liveavatar.monitoring.readings import Reading

FORMAT = "liveavatar-hardware-trace"
VERSION = 1
_PERIOD_S = 0.1
_DIGITS = 3


def record(path: Path, *, seconds: float, monitor: HardwareMonitor | None = None) -> int:
    """Write what the machine does in the next `seconds`, ten readings a second; return how many there are.

    Raises ValueError for a length that is not positive and OSError when the file cannot be written.
    """
    if not seconds > 0:
        raise ValueError(f"a recording lasts more than 0 seconds, not {seconds}")
    monitor = monitor or HardwareMonitor()
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for line in _lines(_watch(monitor, seconds)):
            file.write(line)
            count += 1
    return count - 1


def write_trace(path: Path, readings: Iterable[Reading]) -> None:
    """Write readings that exist already."""
    path.write_text("".join(_lines(readings)), encoding="utf-8")


def read_trace(path: Path) -> list[Reading]:
    """Return the readings of a recording. Raises ValueError, naming the line, for what is not one."""
    readings: list[Reading] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            fields = json.loads(line)
            if number > 1:
                readings.append(wire.from_json(Reading, fields))
                continue
            header = fields.get("format"), fields.get("version")
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if header != (FORMAT, VERSION):
            raise ValueError(f"{path} is not a recording of version {VERSION}: its header says {header}")
    if not readings:
        raise ValueError(f"{path} holds no reading")
    return readings


def _lines(readings: Iterable[Reading]) -> Iterator[str]:
    """Yield the lines of a recording; its times begin at 0."""
    yield json.dumps({"format": FORMAT, "version": VERSION}) + "\n"
    started = None
    for reading in readings:
        started = reading.time_s if started is None else started
        fields = dataclasses.asdict(dataclasses.replace(reading, time_s=reading.time_s - started))
        yield json.dumps(_rounded(fields), separators=(",", ":")) + "\n"


def _watch(monitor: HardwareMonitor, seconds: float) -> Iterator[Reading]:
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        yield monitor.read()
        time.sleep(max(0.0, _PERIOD_S - (time.monotonic() - began)))


def _rounded(value: object) -> object:
    """Shorten numbers, and leave out what was not said: it is None again when read."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, _DIGITS) if isinstance(value, float) else value

"""What the end of an engine process, or an error inside of it, means to an operator."""

from __future__ import annotations

import errno
import signal
import sqlite3
from collections.abc import Sequence

from liveavatar.core.errors import Diagnosis, LiveAvatarError
from liveavatar.core.parallel import ParallelPlan
from liveavatar.diagnostics.torch_errors import HOST_MEMORY_FULL, from_torch_text

_TRY_AGAIN = "Press Generate again; a fresh engine is started by itself."


def engine_exited(exit_code: int, *, is_start: bool) -> Diagnosis:
    """Explain why the engine process is gone. Negative exit codes are signals, as in `subprocess`."""
    if exit_code in (-signal.SIGKILL, -signal.SIGTERM):
        return Diagnosis(
            code="engine_killed",
            title="The engine was ended from outside in the middle of its work.",
            cause="Usually the machine ran out of memory and the system chose this process, or somebody ended it.",
            remedy="Close other programs or choose a smaller picture size, then press Generate again.",
            facts={"exit_code": exit_code},
        )
    if exit_code < 0:
        known = -exit_code in signal.valid_signals()
        name = signal.Signals(-exit_code).name if known else f"signal {-exit_code}"
        return Diagnosis(
            code="engine_crashed",
            title="The engine crashed.",
            cause=f"The system stopped it with {name}; the place is recorded in engine.log.",
            remedy=_TRY_AGAIN,
            facts={"exit_code": exit_code, "signal": name},
        )
    return Diagnosis(
        code="engine_exited",
        title="The engine could not start." if is_start else "The engine ended before the video was done.",
        cause=f"Its process left with code {exit_code}; the reason is recorded in engine.log.",
        remedy=_TRY_AGAIN,
        facts={"exit_code": exit_code},
    )


def engine_silent(phase: str, waited_s: float, *, silent: Sequence[str], record: str) -> Diagnosis:
    """Explain that a deadline passed. `phase` completes "The engine did not ...".

    `silent` names the places that gave no sign of life; `record` is the folder with what every process was doing.
    """
    if silent:
        cause = f"There was no sign of life from {' and '.join(silent)}."
    else:
        cause = "It hung, or the machine is too busy to serve it."
    return Diagnosis(
        code="engine_hung",
        title=f"The engine did not {phase} within {waited_s:.0f} seconds and was ended.",
        cause=cause,
        remedy=f"{_TRY_AGAIN} If it happens again, close other programs; {record} shows where it stood.",
        facts={"waited_s": round(waited_s, 1), "record": record},
    )


def machines_too_few(parallel: ParallelPlan, num_machines: int) -> Diagnosis:
    """Explain that the ranks of a plan do not fit on the machines that are there."""
    return Diagnosis(
        code="machines_too_few",
        title="A machine that the plan counted on is not there any more.",
        cause=f"“{parallel.describe()}” does not fit on the {num_machines} machine{'s' * (num_machines > 1)} here now.",
        remedy=f"{_TRY_AGAIN} The video is then planned for the machines that are there.",
        facts={"layout": parallel.describe(), "num_machines": num_machines},
    )


def machines_missing(num_wanted: int, num_here: int, endpoint: str) -> Diagnosis:
    """Explain that the app waits for machines."""
    return Diagnosis(
        code="machines_missing",
        title=f"{num_here} of {num_wanted} machines are here.",
        cause="The s2v engine was set to run on all of them together.",
        remedy=f"On each of the others run: python -m liveavatar join --rdzv-endpoint {endpoint}",
        facts={"num_wanted": num_wanted, "num_here": num_here, "endpoint": endpoint},
    )


def from_exception(error: BaseException) -> Diagnosis:
    """Explain an exception that ended a job inside the engine."""
    if isinstance(error, LiveAvatarError):
        return error.diagnosis
    if isinstance(error, MemoryError):
        return HOST_MEMORY_FULL
    if known := from_torch_text(type(error).__name__, str(error)):
        return known
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full()
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return disk_full()
    return Diagnosis(
        code="engine_error",
        title="The engine met an error that it does not know.",
        cause=f"{type(error).__name__}: {error}",
        remedy="Press Generate again. If it happens again, please report it together with engine.log.",
        facts={"exception": type(error).__name__, "message": str(error)},
    )


def disk_full() -> Diagnosis:
    """Explain that the video cannot be written."""
    return Diagnosis(
        code="disk_full",
        title="The disk is full.",
        cause="The video could not be written any further; what was made until then is kept.",
        remedy="Delete videos you no longer need, or free space on the disk, then press Generate again.",
    )


def interrupted() -> Diagnosis:
    """Explain that the app itself ended while the job was being made."""
    return Diagnosis(
        code="interrupted",
        title="The app was closed while this video was being made.",
        cause="What was made until then is kept.",
        remedy="Press Generate again to make the whole video.",
    )

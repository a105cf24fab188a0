"""Random faults of an engine of several ranks: `python -m benchmarks.rank_faults --trials 100 --seed 1 --json FILE`.

Each trial starts or reuses an engine of 2 to 4 ranks (the tests' chain of ranks, in real processes) and does one thing
to one rank at a random moment: a signal from outside, an error or a hang from inside, or a stop by the operator. It is
passed when the job has exactly one terminal event, no process is left of an engine that failed, and the engine was gone
within two seconds of the first sign of trouble or of its deadline.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from liveavatar.config import Deadlines
from liveavatar.core.errors import EngineFailed
from liveavatar.core.events import TERMINAL_EVENTS, EngineEvent, Failed
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import ValidatedRequest
from liveavatar.service.supervisor import EngineSupervisor, Phase

MODULE = "tests.fakes.rank_worker"
DEADLINES = Deadlines(
    start_s=20, load_s=20, first_chunk_s=20, chunk_s=4, stop_s=4, shutdown_s=1, heartbeat_s=20
)
DOWN_S = 2.0  # after the first sign of trouble
_NUM_BLOCKS = 20
_PLANS = [
    ExecutionPlan(engine="s2v", width=64, height=64, parallel=parallel)
    for parallel in (
        ParallelPlan(step_split=(2, 2)),
        ParallelPlan(step_split=(2, 2), decoder_has_own_rank=True),
        ParallelPlan(step_split=(1, 1, 2), decoder_has_own_rank=True),
    )
]
_SIGNALS = {
    "SIGKILL": signal.SIGKILL,
    "SIGSEGV": signal.SIGSEGV,
    "SIGTERM": signal.SIGTERM,
    "SIGSTOP": signal.SIGSTOP,
}
_PROMPTS = ("raise", "oom", "exit", "hang", "slow", "kill", "crash")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is done to which rank, and when."""

    kind: str  # a signal from outside, a word of the fake engine, "stop" or "none"
    rank: int
    phase: str  # "load" | "job" | "shutdown"
    after_s: float  # from the beginning of the phase, for faults from outside
    block: int  # for faults from inside


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of it. `problems` is empty when it passed."""

    fault: Fault
    num_ranks: int
    end: str  # the terminal event, or the diagnosis of an engine that failed to load
    named_rank: int | None
    seconds: float  # from the fault from outside to the end of everything; 0 when it was from inside
    problems: tuple[str, ...]

    def describe(self) -> str:
        """Return one line."""
        fault = self.fault
        return (
            f"{fault.kind} of rank {fault.rank} of {self.num_ranks} in {fault.phase} -> {self.end},"
            f" rank {self.named_rank}, {self.seconds} s"
        )


def run_trials(num_trials: int, seed: int, data_dir: Path) -> Iterator[Trial]:
    """Yield the trials; the same seed gives the same faults."""
    dice = random.Random(seed)
    supervisor = EngineSupervisor(MODULE, data_dir, DEADLINES)
    try:
        for number in range(num_trials):
            plan = dice.choice(_PLANS)
            assert plan.parallel is not None
            fault = Fault(
                kind=dice.choice((*_SIGNALS, *_PROMPTS, "stop", "none")),
                rank=dice.randrange(plan.parallel.world_size),
                phase=dice.choices(("load", "job", "shutdown"), (2, 6, 1))[0],
                after_s=dice.uniform(0.0, 0.8),
                block=dice.randrange(_NUM_BLOCKS),
            )
            yield _Attempt(supervisor, plan, fault, number).run()
    finally:
        supervisor.close()


class _Attempt:
    """One trial; the fault from outside is done between two looks at the engine."""

    def __init__(self, supervisor: EngineSupervisor, plan: ExecutionPlan, fault: Fault, number: int) -> None:
        self._supervisor, self._plan, self._fault, self._number = supervisor, plan, fault, number
        self._phase_began = time.monotonic()
        self._fault_at: float | None = None
        self._is_stopped = False

    def run(self) -> Trial:
        fault, events, problems = self._fault, [], []
        pids: tuple[int, ...] = ()
        try:
            if fault.phase != "job":
                self._start_afresh()
            self._begin()
            if not self._supervisor.wait_ready(self._plan, should_stop=lambda: self._strikes("load")):
                self._supervisor.stop()
            else:
                pids = self._supervisor.pids
                self._begin()
                events = list(self._job())
            if fault.phase == "shutdown":
                self._begin()
                self._strikes("shutdown", at_once=True)
                self._supervisor.stop()
            end, named = _describe(events)
        except EngineFailed as failure:
            end, named = f"not loaded: {failure.diagnosis.code}", failure.diagnosis.facts.get("rank")
        seconds = time.monotonic() - self._fault_at if self._fault_at else 0.0
        num_ends = sum(isinstance(event, TERMINAL_EVENTS) for event in events)
        if events and (num_ends != 1 or not isinstance(events[-1], TERMINAL_EVENTS)):
            problems.append(f"{num_ends} terminal events")
        if self._supervisor.phase is Phase.STOPPED and (left := _running_ranks()):
            problems.append(f"processes left: {left}")
        if seconds > _longest_s(fault) + DOWN_S:
            problems.append(f"took {seconds:.1f} s")
        if fault.kind in _SIGNALS and self._fault_at and named not in (None, fault.rank):
            problems.append(f"rank {named} was blamed")
        assert self._plan.parallel is not None
        return Trial(
            fault=fault,
            num_ranks=self._plan.parallel.world_size,
            end=end,
            named_rank=named if isinstance(named, int) else None,
            seconds=round(seconds, 2),
            problems=tuple(problems) if pids or not events else (*problems, "events without an engine"),
        )

    def _start_afresh(self) -> None:
        """Start ranks that carry the fault from inside, if it is one."""
        self._supervisor.stop()
        when = {"load": "load", "shutdown": "close"}[self._fault.phase]
        if self._fault.kind in _PROMPTS:
            os.environ["FAKE_FAULT"] = f"{self._fault.kind}@{self._fault.rank}:{when}"
        self._supervisor.start(self._plan)
        os.environ.pop("FAKE_FAULT", None)

    def _begin(self) -> None:
        self._phase_began = time.monotonic()

    def _job(self) -> Iterator[EngineEvent]:
        fault = self._fault
        inside = fault.phase == "job" and fault.kind in _PROMPTS
        request = ValidatedRequest(
            job_id=f"trial-{self._number}",
            image_path="",
            audio_path="",
            audio_seconds=_NUM_BLOCKS * 0.4,
            prompt=f"slow@0:all {fault.kind}@{fault.rank}:{fault.block}" if inside else "slow@0:all",
            seed=0,
            face_clicks=None,
            whole_picture=False,
        )
        return self._supervisor.run(request, self._plan, should_stop=lambda: self._strikes("job"))

    def _strikes(self, phase: str, *, at_once: bool = False) -> bool:
        """Do the fault from outside when its time has come; return whether the operator stops the job."""
        fault = self._fault
        is_due = at_once or time.monotonic() - self._phase_began >= fault.after_s
        if phase != fault.phase or self._fault_at is not None or not is_due:
            return self._is_stopped
        if fault.kind in _SIGNALS and len(self._supervisor.pids) > fault.rank:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._supervisor.pids[fault.rank], _SIGNALS[fault.kind])
            self._fault_at = time.monotonic()
        elif fault.kind == "stop":
            self._is_stopped = True
            self._fault_at = time.monotonic()
        return self._is_stopped


def _describe(events: list[EngineEvent]) -> tuple[str, object]:
    if not events:
        return "stopped while loading", None
    end = events[-1]
    if isinstance(end, Failed):
        return f"failed: {end.diagnosis.code}", end.diagnosis.facts.get("rank")
    return type(end).__name__.lower(), None


def _longest_s(fault: Fault) -> float:
    """Return how long the engine may take to notice, in seconds, before it is taken down."""
    if fault.kind == "stop":
        return DEADLINES.stop_s
    if fault.kind != "SIGSTOP":
        return 0.5
    if fault.phase == "load":
        return DEADLINES.start_s + DEADLINES.load_s
    return DEADLINES.first_chunk_s if fault.phase == "job" else DEADLINES.shutdown_s


def _running_ranks() -> list[int]:
    """Return the engine's processes that still run; other children may be somebody else's."""
    left = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE and MODULE in child.cmdline():
                left.append(child.pid)
    return left


def main() -> int:
    """Run the trials, print each, and write the record; the exit code is 1 when one did not pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    logging.disable(logging.ERROR)
    trials = []
    with tempfile.TemporaryDirectory() as folder:
        for trial in run_trials(options.trials, options.seed, Path(folder)):
            trials.append(trial)
            print(f"{len(trials):4} {trial.describe()}", flush=True)
            if trial.problems:
                print("     PROBLEM:", *trial.problems, flush=True)
    failed = [trial for trial in trials if trial.problems]
    summary = {
        "command": f"python -m benchmarks.rank_faults --trials {options.trials} --seed {options.seed}",
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
        "trials": len(trials),
        "not_passed": len(failed),
        "faults": Counter(trial.fault.kind for trial in trials),
        "ends": Counter(trial.end for trial in trials),
        "longest_s_after_kill": max(
            (trial.seconds for trial in trials if trial.fault.kind in ("SIGKILL", "SIGSEGV")), default=0.0
        ),
        "each": [trial.describe() for trial in trials],
    }
    if options.json:
        options.json.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{len(trials) - len(failed)} of {len(trials)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

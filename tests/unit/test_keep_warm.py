"""When an engine that cannot start is tried again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.core.job import JobState
from liveavatar.core.note import Note
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.service import runner
from liveavatar.service.failed_layouts import FailedLayouts
from liveavatar.service.job_store import JobStore
from liveavatar.service.runner import JobRunner
from liveavatar.service.supervisor import Phase
from tests.integration.test_rank_faults import request

PLAN = ExecutionPlan(engine="s2v", width=64, height=64, parallel=ParallelPlan(step_split=(2, 2)))
BROKEN = Diagnosis(code="engine_error", title="Broken.", cause="", remedy="")


class Supervisor:
    """Cannot start an engine until it is mended."""

    def __init__(self) -> None:
        self.machines: tuple[str, ...] = ()
        self.phase = Phase.STOPPED
        self.diagnosis: Diagnosis | None = BROKEN
        self.started: list[ExecutionPlan] = []

    def start(self, plan: ExecutionPlan) -> None:
        self.started.append(plan)
        if self.diagnosis is not None:
            raise EngineFailed(self.diagnosis)
        self.phase = Phase.READY

    def wait_ready(self, plan: ExecutionPlan, *, should_stop: object) -> bool:
        self.start(plan)
        return True

    def poll(self, timeout_s: float) -> None:
        pass

    def stop(self) -> None:
        self.phase = Phase.STOPPED


class App:
    """A runner that is driven step by step, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: JobStore) -> None:
        self.now, self.cards, self.plans = 1000.0, ("GPU-a",), 0
        self.failed_layouts = FailedLayouts()
        self.supervisor = Supervisor()
        monkeypatch.setattr(runner.time, "monotonic", lambda: self.now)
        self.runner = JobRunner(
            store,
            None,  # type: ignore[arg-type]
            self.supervisor,  # type: ignore[arg-type]
            lambda job, request: PLAN,
            self._plan,
            self.failed_layouts,
            lambda plan, peaks: None,
            lambda: self.cards,
        )

    def _plan(self) -> ExecutionPlan:
        self.plans += 1
        return dataclasses.replace(PLAN, decisions=(Note(code="n", text=f"plan {self.plans}"),))

    def run(self, seconds: float) -> int:
        """Let time pass; return how often a start was tried."""
        before = len(self.supervisor.started)
        for _ in range(round(10 * seconds)):
            self.now += 0.1
            self.runner._keep_warm()
        return len(self.supervisor.started) - before


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> App:
    return App(monkeypatch, JobStore(tmp_path / "jobs.sqlite3"))


def test_tries_become_rarer(app: App) -> None:
    assert app.run(600) <= 11
    assert app.run(280) <= 1


def test_an_engine_that_fails_for_weeks_is_still_tried(app: App) -> None:
    for _ in range(2000):
        app.runner._note_failure(BROKEN, PLAN)
    assert app.run(310) == 1


def test_each_later_try_is_planned_anew(app: App) -> None:
    app.run(60)
    assert len({plan.decisions for plan in app.supervisor.started}) == len(app.supervisor.started) - 1


@pytest.mark.parametrize("change", ["a machine joins", "a machine is started anew", "a card comes back"])
def test_what_changes_around_the_engine_has_it_tried_at_once(app: App, change: str) -> None:
    app.supervisor.machines = ("b first",) if change == "a machine is started anew" else ()
    app.run(600)
    assert app.run(1) == 0, "it waits"
    app.supervisor.diagnosis = None
    if change == "a card comes back":
        app.cards = ("GPU-a", "GPU-b")
    else:
        app.supervisor.machines = ("b second",)
    plans = app.plans
    assert app.run(0.1) == 1
    assert app.supervisor.phase is Phase.READY
    assert app.plans == plans + 1


def test_a_job_has_it_tried_at_once(app: App, tmp_path: Path) -> None:
    app.run(600)
    store = app.runner._store
    store.add(
        job_id="new",
        owner="",
        prompt="",
        engine="s2v",
        size_asked="auto",
        audio_seconds=1.0,
        num_frames=25,
        notes=(),
        request_json=runner.wire.to_json(request()),
    )
    before = len(app.supervisor.started)
    job = app.runner._claim()
    assert job is not None
    end = app.runner._make_video(job)
    assert len(app.supervisor.started) == before + 1
    assert end == runner.Failed(job_id="new", diagnosis=BROKEN)
    assert store.get("new").state is JobState.LOADING


def test_an_error_of_the_app_does_not_end_the_queue(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(timeout_s: float) -> None:
        raise ValueError("a mistake of ours")

    app.supervisor.diagnosis = None
    monkeypatch.setattr(app.supervisor, "poll", broken)
    app.run(60)
    assert app.supervisor.phase is Phase.STOPPED
    monkeypatch.undo()
    monkeypatch.setattr(runner.time, "monotonic", lambda: app.now)
    app.run(310)
    assert app.supervisor.phase is Phase.READY


def test_a_ready_engine_stays_when_the_driver_is_silent_for_a_moment(app: App) -> None:
    app.supervisor.diagnosis = None
    app.run(1)
    plan = app.runner.plan
    app.cards = ()
    app.run(1)
    assert app.runner.plan is plan


@pytest.mark.parametrize(("code", "is_given_up"), [("engine_error", True), ("machine_lost", False)])
def test_a_layout_is_not_given_up_because_a_machine_left(app: App, code: str, is_given_up: bool) -> None:
    app.supervisor.diagnosis = dataclasses.replace(BROKEN, code=code)
    app.run(10)
    assert bool(app.failed_layouts.avoided()) == is_given_up

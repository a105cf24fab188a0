"""An engine of several ranks when one of them dies, raises, hangs or is slow: real processes, real signals.

Whatever happens, a job ends with exactly one terminal event, no process is left over, and the next job is made.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.rank_faults import run_trials
from liveavatar.config import AppConfig, Deadlines
from liveavatar.core.errors import EngineFailed
from liveavatar.core.events import TERMINAL_EVENTS, Cancelled, Chunk, EngineEvent, Failed, Finished, Progress
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.core.request import GenerationRequest, ValidatedRequest
from liveavatar.service import engine_run
from liveavatar.service.engine_run import free_port
from liveavatar.service.facade import Studio
from liveavatar.service.supervisor import EngineSupervisor, Phase
from tests.conftest import REPOSITORY, wait_for_end, wait_until
from tests.fakes.rank_worker import BLOCK_FRAMES

MODULE = "tests.fakes.rank_worker"
DEADLINES = Deadlines(
    start_s=60, load_s=60, first_chunk_s=60, chunk_s=30, stop_s=5, shutdown_s=1, heartbeat_s=60
)
THREE_RANKS = ExecutionPlan(
    engine="s2v",
    width=64,
    height=64,
    parallel=ParallelPlan(step_split=(2, 2), decoder_has_own_rank=True),
)
TWO_RANKS = dataclasses.replace(THREE_RANKS, parallel=ParallelPlan(step_split=(2, 2)))
RANKS = range(3)
NUM_BLOCKS = 12
_numbers = itertools.count(1)


def request(prompt: str = "", *, num_blocks: int = NUM_BLOCKS) -> ValidatedRequest:
    return ValidatedRequest(
        job_id=f"job {next(_numbers)}",
        image_path="",
        audio_path="",
        audio_seconds=num_blocks * BLOCK_FRAMES / 25,
        prompt=prompt,
        seed=0,
        face_clicks=None,
        whole_picture=False,
    )


def make(
    supervisor: EngineSupervisor,
    prompt: str = "",
    *,
    plan: ExecutionPlan = THREE_RANKS,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[EngineEvent]:
    """Return every event of one job, after checking that exactly one ends it."""
    assert supervisor.wait_ready(plan, should_stop=lambda: False)
    events = list(supervisor.run(request(prompt), plan, should_stop=should_stop))
    assert [isinstance(event, TERMINAL_EVENTS) for event in events].count(True) == 1
    assert isinstance(events[-1], TERMINAL_EVENTS)
    return events


def failure(events: list[EngineEvent]) -> Failed:
    assert isinstance(events[-1], Failed)
    return events[-1]


def rank_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if MODULE in " ".join(child.cmdline())]


@pytest.fixture(autouse=True)
def _deadline() -> Iterator[None]:
    """A supervisor that hangs fails its test."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError("the test hangs")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(300)
    yield
    signal.alarm(0)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[EngineSupervisor]:
    supervisor = EngineSupervisor(MODULE, tmp_path, DEADLINES)
    yield supervisor
    supervisor.close()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineSupervisor]:
    """A supervisor for test after test: each shows that the fault of the one before left nothing behind."""
    supervisor = EngineSupervisor(MODULE, tmp_path_factory.mktemp("lasting"), DEADLINES)
    yield supervisor
    supervisor.close()
    assert rank_processes() == []


@pytest.fixture
def alone(lasting: EngineSupervisor) -> None:
    """For tests that count processes and start their own."""
    lasting.stop()


def test_video_of_three_ranks_is_whole(lasting: EngineSupervisor) -> None:
    end = make(lasting)[-1]
    assert isinstance(end, Finished)
    assert end.num_frames == NUM_BLOCKS * BLOCK_FRAMES
    pids = lasting.pids
    make(lasting)
    assert lasting.pids == pids, "the ranks stay for the next job"


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("block", [0, 6])
def test_killed_rank_is_named(lasting: EngineSupervisor, rank: int, block: int) -> None:
    diagnosis = failure(make(lasting, f"kill@{rank}:{block}")).diagnosis
    assert (diagnosis.code, diagnosis.facts["rank"]) == ("engine_killed", rank)
    assert f"engine process {rank + 1} of 3" in diagnosis.cause
    assert rank_processes() == []


@pytest.mark.parametrize("rank", RANKS)
def test_rank_killed_while_loading(
    lasting: EngineSupervisor, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    lasting.stop()
    monkeypatch.setenv("FAKE_FAULT", f"kill@{rank}:load")
    with pytest.raises(EngineFailed) as failed:
        lasting.wait_ready(THREE_RANKS, should_stop=lambda: False)
    assert (failed.value.diagnosis.code, failed.value.diagnosis.facts["rank"]) == ("engine_killed", rank)
    assert rank_processes() == []


@pytest.mark.parametrize("rank", RANKS)
def test_rank_killed_while_shutting_down(
    lasting: EngineSupervisor, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    lasting.stop()
    monkeypatch.setenv("FAKE_FAULT", f"kill@{rank}:close")
    assert lasting.wait_ready(THREE_RANKS, should_stop=lambda: False)
    lasting.stop()
    assert rank_processes() == []
    assert lasting.phase is Phase.STOPPED


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(
    ("action", "code"),
    [("oom", "graphics_memory_full"), ("raise", "engine_error"), ("exit", "engine_exited")],
)
def test_failing_rank_is_told_from_its_peers(
    lasting: EngineSupervisor, action: str, code: str, rank: int
) -> None:
    diagnosis = failure(make(lasting, f"{action}@{rank}:4")).diagnosis
    assert (diagnosis.code, diagnosis.facts["rank"]) == (code, rank)


def test_rank_that_torch_aborts_is_explained(lasting: EngineSupervisor) -> None:
    diagnosis = failure(make(lasting, "abort@1:4")).diagnosis
    assert (diagnosis.code, diagnosis.facts["rank"]) == ("graphics_card_error", 1)


@pytest.mark.usefixtures("alone")
def test_frozen_rank_is_named(tmp_path: Path) -> None:
    supervisor = EngineSupervisor(MODULE, tmp_path, dataclasses.replace(DEADLINES, chunk_s=4))
    try:
        diagnosis = failure(make(supervisor, "freeze@1:4")).diagnosis
        assert (diagnosis.code, diagnosis.facts["rank"]) == ("engine_hung", 1)
        assert "no sign of life from engine process 2 of 3" in diagnosis.cause
        assert rank_processes() == []
    finally:
        supervisor.close()


@pytest.mark.usefixtures("alone")
def test_hung_rank_leaves_the_stacks_of_all(tmp_path: Path) -> None:
    supervisor = EngineSupervisor(MODULE, tmp_path, dataclasses.replace(DEADLINES, chunk_s=3))
    try:
        diagnosis = failure(make(supervisor, "hang-in-nccl@1:4 hang-in-nccl@0:5")).diagnosis
        assert diagnosis.code == "engine_hung"
        folder = Path(str(diagnosis.facts["record"]))
        assert folder.parent == tmp_path / "failures"
        stacks = [(folder / f"rank-{rank}.stacks.txt").read_text() for rank in RANKS]
        assert "_misbehave" in stacks[1]
        assert all("generate" in text for text in stacks)
        for rank in (0, 1):
            record = (folder / f"flight_recorder_rank_{rank}").read_text()
            assert record == f"SEND 7, RECV 6 of rank {rank}"
        assert rank_processes() == []
        assert isinstance(make(supervisor)[-1], Finished)
    finally:
        supervisor.close()


def test_slow_rank_only_takes_longer(lasting: EngineSupervisor) -> None:
    assert isinstance(make(lasting, "slow@1:all")[-1], Finished)


@pytest.mark.parametrize("slow_rank", RANKS)
def test_cancel_at_unequal_speeds(lasting: EngineSupervisor, slow_rank: int) -> None:
    seen: list[EngineEvent] = []
    assert lasting.wait_ready(THREE_RANKS, should_stop=lambda: False)
    pids = lasting.pids
    job = request(f"slow@{slow_rank}:all", num_blocks=100)
    for event in lasting.run(job, THREE_RANKS, should_stop=lambda: len(seen) > 4):
        seen.append(event)
    assert isinstance(seen[-1], Cancelled)
    assert [isinstance(event, TERMINAL_EVENTS) for event in seen].count(True) == 1
    assert isinstance(seen[-2], Chunk)
    assert seen[-2].frames_done < 100 * BLOCK_FRAMES
    assert isinstance(make(lasting)[-1], Finished)
    assert lasting.pids == pids, "a stop ends no process"


def test_two_engines_on_one_machine(lasting: EngineSupervisor, supervisor: EngineSupervisor) -> None:
    assert lasting.wait_ready(THREE_RANKS, should_stop=lambda: False)
    job = lasting.run(request("slow@1:all"), THREE_RANKS, should_stop=lambda: False)
    first = next(job)
    assert isinstance(make(supervisor)[-1], Finished)
    assert isinstance(first, Progress)
    assert isinstance(list(job)[-1], Finished)


def test_engine_that_dies_idle_costs_no_job(lasting: EngineSupervisor) -> None:
    make(lasting)
    psutil.Process(lasting.pids[1]).kill()
    os.waitid(os.P_PID, lasting.pids[1], os.WEXITED | os.WNOWAIT)
    assert isinstance(make(lasting)[-1], Finished)


class StudioOfRanks(Studio):
    """Plans three ranks, or two when three keep failing."""

    def _plan_for(self, engine: str, size: str, request: ValidatedRequest) -> ExecutionPlan:
        return self._warm_plan()

    def _warm_plan(self) -> ExecutionPlan:
        return TWO_RANKS if THREE_RANKS.parallel in self._failed_layouts.avoided() else THREE_RANKS


@pytest.fixture
def studio(alone: None, tmp_path: Path) -> Iterator[Studio]:
    studio = StudioOfRanks(AppConfig(data_dir=tmp_path, worker_module=MODULE, deadlines=DEADLINES))
    studio.start()
    yield studio
    studio.close()
    assert rank_processes() == []


def test_queue_goes_on_and_a_layout_that_keeps_failing_is_given_up(
    studio: Studio, make_request: Callable[..., GenerationRequest]
) -> None:
    prompts = ["slow@0:all kill@1:8", "", "slow@0:all oom@2:8", "slow@0:all kill@0:8", ""]
    jobs = [wait_for_end(studio, studio.submit(make_request(prompt)).id) for prompt in prompts]
    assert [job.state.value for job in jobs] == ["failed", "finished", "failed", "failed", "finished"]
    assert [job.diagnosis.code for job in jobs if job.diagnosis] == [
        "engine_killed",
        "graphics_memory_full",
        "engine_killed",
    ]
    assert all(job.has_video for job in jobs)
    assert len(rank_processes()) == 2, "the last one was made by the next lower layout"
    assert jobs[-1].frames_done == jobs[-1].num_frames


@pytest.mark.usefixtures("alone")
def test_layout_that_cannot_load_is_given_up(
    tmp_path: Path, make_request: Callable[..., GenerationRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "exit@2:load")
    studio = StudioOfRanks(AppConfig(data_dir=tmp_path, worker_module=MODULE, deadlines=DEADLINES))
    studio.start()
    try:
        wait_until(lambda: studio.engine_status().state == "ready")
        assert len(rank_processes()) == 2
    finally:
        studio.close()


@pytest.mark.usefixtures("alone")
def test_random_faults(tmp_path: Path) -> None:
    """The short form of the benchmark of a hundred; see benchmarks/results."""
    for trial in run_trials(5, seed=11, data_dir=tmp_path):
        assert not trial.problems, trial


APP = """
import sys
from pathlib import Path
from tests.integration.test_rank_faults import DEADLINES, MODULE, THREE_RANKS
from liveavatar.service import engine_run
from liveavatar.service.engine_run import free_port
from liveavatar.service.supervisor import EngineSupervisor
supervisor = EngineSupervisor(MODULE, Path(sys.argv[1]), DEADLINES)
assert supervisor.wait_ready(THREE_RANKS, should_stop=lambda: False)
print(*supervisor.pids, flush=True)
while True:
    supervisor.poll(1)
"""


def test_no_rank_outlives_the_app(tmp_path: Path) -> None:
    app = subprocess.Popen(
        [sys.executable, "-c", APP, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert app.stdout is not None
    ranks = [psutil.Process(int(pid)) for pid in app.stdout.readline().split()]
    assert len(ranks) == 3
    app.kill()
    app.communicate()
    wait_until(lambda: all(not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE for rank in ranks))


@pytest.fixture
def over_gloo(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineSupervisor]:
    """Two ranks that really use torch.distributed, with a short time-out."""
    monkeypatch.setenv("FAKE_LINK", "gloo")
    monkeypatch.setenv("FAKE_TIMEOUT_S", "3")
    supervisor = EngineSupervisor(MODULE, tmp_path, DEADLINES)
    yield supervisor
    supervisor.close()
    assert rank_processes() == []


def test_idle_ranks_wait_for_nobody_and_a_taken_port_does_not_matter(
    over_gloo: EngineSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("", 0)) as taken:
        ports = iter([taken.getsockname()[1]])
        monkeypatch.setattr(engine_run, "free_port", lambda: next(ports, None) or free_port())
        assert isinstance(make(over_gloo, plan=TWO_RANKS)[-1], Finished)
        assert next(ports, None) is None, "the taken port was tried"
    pids, cpu_s = over_gloo.pids, sum(psutil.Process(pid).cpu_times().user for pid in over_gloo.pids)
    idle_until = time.monotonic() + 5  # longer than the time-out of a receive
    while time.monotonic() < idle_until:
        assert over_gloo.poll(0.2) == []
    used_s = sum(psutil.Process(pid).cpu_times().user for pid in over_gloo.pids) - cpu_s
    assert used_s < 1, "ranks that wait do not spin"
    assert isinstance(make(over_gloo, plan=TWO_RANKS)[-1], Finished)
    assert over_gloo.pids == pids
    diagnosis = failure(make(over_gloo, "kill@0:5", plan=TWO_RANKS)).diagnosis
    assert (diagnosis.code, diagnosis.facts["rank"]) == ("engine_killed", 0)

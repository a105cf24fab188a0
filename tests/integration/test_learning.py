"""Finished videos correct the forecast of the next: real processes, a replayed driver, an engine that says numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from liveavatar.config import AppConfig
from liveavatar.core.events import Telemetry
from liveavatar.core.hardware import GpuSpec
from liveavatar.core.hardware import Machine as HardwareMachine
from liveavatar.core.job import JobState
from liveavatar.core.memory import GIB, MemoryBudget, MemoryItem
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.peaks import RankPeaks
from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.core.request import GenerationRequest
from liveavatar.monitoring.hardware import HardwareMonitor
from liveavatar.planning.calibration import load_calibration
from liveavatar.planning.candidates import candidates
from liveavatar.planning.machine_text import spec_of_installed
from liveavatar.planning.model_spec import TRANSFORMER_PARAMETERS, VideoSize
from liveavatar.planning.s2v_request import S2vSetup, plan_s2v
from liveavatar.service import facade
from liveavatar.service.facade import Studio
from liveavatar.service.learning import RunCalibration
from tests.conftest import wait_for_end, wait_until
from tests.fakes.recorded_machine import Machine, trace
from tests.fakes.replayed_nvml import ReplayedNvml

MakeRequest = Callable[..., GenerationRequest]
CARD = trace("one_gpu")[0].gpus[0]
H200 = spec_of_installed(name=CARD.name, total_bytes=CARD.total_bytes, used_bytes=0)[0]
SETUP = S2vSetup(
    files=ModelFiles(checkpoint="/c", lora="/l", cache="/d"),
    num_parameters=TRANSFORMER_PARAMETERS,
    gpus=(H200,),
)


def weights_of(budget: MemoryBudget) -> int:
    return budget.item_bytes("weights")


def plan(setup: S2vSetup = SETUP) -> ExecutionPlan:
    return plan_s2v(setup, size="384*256", picture=(320, 200))  # as in the tests' requests


@pytest.fixture
def start(fake_config: AppConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Studio]:
    monkeypatch.setattr(facade, "find_s2v", lambda *_: SETUP)

    def start() -> Studio:
        nvml = ReplayedNvml(trace("one_gpu"))
        studio = Studio(fake_config, monitor=HardwareMonitor(reader=nvml.reader()))
        studio.start()
        return studio

    return start


def test_the_next_plan_counts_with_what_was_measured(
    start: Callable[[], Studio], make_request: MakeRequest, fake_config: AppConfig
) -> None:
    studio = start()
    before = plan()
    for _ in range(2):  # the second is planned with what the first taught, and teaches the same again
        job = wait_for_end(studio, studio.submit(make_request()).id)
        assert (job.state, job.engine) == (JobState.FINISHED, "s2v")
    studio.close()
    learned = load_calibration(fake_config.data_dir / "calibration.json")
    assert learned.memory_factors(H200)["weights"] == pytest.approx(30 * GIB / weights_of(before.budgets[0]))
    assert before.block_s is not None
    assert learned.time_factor(H200) == pytest.approx(min(2.0, max(0.5, 0.25 / before.block_s)))

    studio = start()  # the app starts again
    job = studio.submit(make_request())
    wait_for_end(studio, job.id)
    (gauge,) = studio.card_gauges()
    studio.close()
    corrected = plan(dataclasses.replace(SETUP, calibration=learned)).budgets[0]
    assert gauge.needed_bytes == pytest.approx(corrected.needed_bytes, abs=10)
    assert weights_of(corrected) == pytest.approx(30 * GIB, abs=10)
    assert corrected.needed_bytes != before.budgets[0].needed_bytes


def test_a_video_whose_plan_changed_is_drawn_by_the_new_one_and_teaches_nothing(
    start: Callable[[], Studio], make_request: MakeRequest, fake_config: AppConfig
) -> None:
    studio = start()
    needed = plan().budgets[0].needed_bytes
    job = studio.submit(make_request("slow shrink", seconds=10.0))
    wait_until(lambda: 0 < (studio.card_gauges()[0].needed_bytes or 0) < needed)
    assert wait_for_end(studio, job.id).state is JobState.FINISHED
    wait_until(lambda: studio.card_gauges()[0].needed_bytes == needed)
    studio.close()
    assert not (fake_config.data_dir / "calibration.json").exists()


def learn(path: Path, peaks: RankPeaks, made: ExecutionPlan | None = None) -> RunCalibration:
    calibration = RunCalibration(path)
    machine = Machine(trace("one_gpu"))
    machine.monitor.read()
    calibration.learn(made or plan(), {0: peaks}, machine.look())
    return calibration


def peaks(*, gpu: str = "GPU-0", num_blocks: int = 8) -> RankPeaks:
    return RankPeaks(
        gpu=gpu,
        items={"weights": 16 * GIB, "speech encoder": GIB, "activations": 0},
        reserved_bytes=40 * GIB,
        peak_bytes=39 * GIB,
        block_s=[9.0, 5.0, 1.0, 1.0, *[0.2] * (num_blocks - 4)],
    )


def factors(calibration: RunCalibration, gpu: GpuSpec = H200) -> dict[str, float]:
    return calibration.calibration.memory_factors(gpu)


def test_only_what_was_measured_in_the_sense_of_the_forecast_is_learned(tmp_path: Path) -> None:
    learned = factors(learn(tmp_path / "calibration.json", peaks()))
    assert set(learned) == {"weights", "allocator slack"}
    slack = next(item for item in plan().budgets[0].items if item.name == "allocator slack")
    assert learned["allocator slack"] == pytest.approx(min(2.0, max(0.5, GIB / slack.num_bytes)))


@pytest.mark.parametrize(
    "told",
    [peaks(num_blocks=4), peaks(gpu=""), peaks(gpu="GPU-of-another-machine")],
    ids=["a window that is not full", "the processor", "another machine"],
)
def test_what_teaches_nothing(tmp_path: Path, told: RankPeaks) -> None:
    path = tmp_path / "calibration.json"
    assert factors(learn(path, told)) == {}
    assert not path.exists()


@pytest.mark.parametrize(("rank", "teaches_time"), [(0, False), (2, True)])
def test_every_rank_teaches_memory_and_the_one_that_decodes_time(
    tmp_path: Path, rank: int, teaches_time: bool
) -> None:
    """Three parts of the layers have three blocks under way and finish them in a bunch: 0.2 s is the pace."""
    (budget,) = plan().budgets
    spread = dataclasses.replace(
        plan(),
        parallel=ParallelPlan(step_split=(4,), layer_parts=3),
        budgets=tuple(dataclasses.replace(budget, rank=each) for each in range(3)),
        block_s=0.1,
    )
    told = dataclasses.replace(peaks(), block_s=[9.0] * 4 + [0.1, 0.1, 0.4] * 3)
    machine = Machine(trace("one_gpu"))
    machine.monitor.read()
    calibration = RunCalibration(tmp_path / "calibration.json")
    calibration.learn(spread, {rank: told}, machine.look())
    assert "weights" in factors(calibration)
    assert calibration.calibration.time_factor(H200) == pytest.approx(2.0 if teaches_time else 1.0)


def test_a_disk_that_cannot_be_written_loses_nothing_but_the_file(tmp_path: Path) -> None:
    calibration = learn(tmp_path / "no folder" / "calibration.json", peaks())
    assert "weights" in factors(calibration)


def test_bench_teaches_the_same(tmp_path: Path) -> None:
    """Its plan is not the planner's: the forecast for it is made afterwards."""
    path = tmp_path / "calibration.json"
    machine = Machine(trace("one_gpu"))
    machine.monitor.read()
    bench_plan = ExecutionPlan(
        engine="s2v", width=704, height=384, precision="fp8", parallel=ParallelPlan(step_split=(4,))
    )
    weights = MemoryItem(name="weights", num_bytes=17 * GIB, basis="measured")
    report = Telemetry(
        rank=0, gpu="GPU-0", reserved_bytes=60 * GIB, peak_bytes=58 * GIB, items=(weights,), block_s=1.2
    )

    def is_taught_by(num_blocks: int) -> bool:
        told = RankPeaks()
        for _ in range(num_blocks):
            told.take(report)
        return RunCalibration(path).learn_bench(bench_plan, told, machine.look())

    assert is_taught_by(8)
    learned = load_calibration(path)
    forecast = next(
        each
        for each in candidates(HardwareMachine(gpus=(H200,)), VideoSize(704, 384))
        if each.configuration.describe() == "one card for all steps, fp8"
    )
    assert learned.memory_factors(H200)["weights"] == pytest.approx(
        17 * GIB / weights_of(forecast.details.budgets[0])
    )
    assert learned.time_factor(H200) == pytest.approx(1.2 / forecast.block_seconds)
    assert not is_taught_by(3), "no full window"
    assert not is_taught_by(0)

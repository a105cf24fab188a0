"""The app on a machine of five cards, one of which others fill: real processes, a replayed driver, stand-in engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from liveavatar.config import AppConfig
from liveavatar.core.memory import GIB
from liveavatar.core.request import GenerationRequest
from liveavatar.monitoring.hardware import HardwareMonitor
from liveavatar.monitoring.readings import GpuProcess
from liveavatar.planning.model_spec import TRANSFORMER_PARAMETERS
from liveavatar.service import s2v_setup
from liveavatar.service.facade import Studio
from tests.conftest import wait_for_end, wait_until
from tests.fakes.recorded_machine import trace
from tests.fakes.replayed_nvml import ReplayedNvml
from tests.integration.test_rank_faults import DEADLINES, MODULE

TAKEN = 1  # the card that another program fills


def driver() -> ReplayedNvml:
    """Return five cards, idle but for one."""
    (first, *_) = trace("five_gpus")
    other = GpuProcess(pid=1, name="other", num_bytes=76 * GIB, is_ours=False)
    gpus = [
        dataclasses.replace(
            gpu,
            used_bytes=(76 if gpu.index == TAKEN else 1) * GIB,
            processes=(other,) if gpu.index == TAKEN else (),
            used_when_listed=(76 if gpu.index == TAKEN else 1) * GIB,
        )
        for gpu in first.gpus
    ]
    return ReplayedNvml([dataclasses.replace(first, gpus=tuple(gpus))])


def ranks(studio: Studio) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in studio._supervisor.pids]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Studio]]:
    """Start an app whose checkpoint looks like the published one."""
    part = SimpleNamespace(num_parameters=TRANSFORMER_PARAMETERS)
    report = SimpleNamespace(is_usable=True, part=lambda name: part)
    monkeypatch.setattr(s2v_setup, "inspect_checkpoint", lambda *_: report)
    monkeypatch.setattr(s2v_setup.CheckpointLayout, "find", lambda *_: SimpleNamespace(lora=tmp_path))
    studios: list[Studio] = []

    def start(**settings: object) -> Studio:
        config = AppConfig(
            data_dir=tmp_path / "data",
            ckpt_dir=tmp_path,
            worker_module=MODULE,
            deadlines=dataclasses.replace(DEADLINES, load_model_s=40.0),
            **settings,  # type: ignore[arg-type]
        )
        studios.append(Studio(config, monitor=HardwareMonitor(reader=driver().reader())))
        studios[-1].start()
        return studios[-1]

    yield start
    for studio in studios:
        studio.close()


def test_ranks_and_gauges_are_on_the_cards_that_were_planned(
    start: Callable[..., Studio], make_request: Callable[..., GenerationRequest]
) -> None:
    studio = start()
    wait_until(lambda: studio.engine_status().state == "ready")
    environments = [rank.environ() for rank in ranks(studio)]
    assert [each["LOCAL_RANK"] for each in environments] == ["0", "1", "2", "3"]
    assert {each["CUDA_VISIBLE_DEVICES"] for each in environments} == {"GPU-0,GPU-2,GPU-3,GPU-4"}
    needed = [gauge.needed_bytes for gauge in studio.card_gauges()]
    planned = [budget.needed_bytes for budget in studio._runner.plan.budgets]
    assert needed == [planned[0], None, *planned[1:]]
    job = wait_for_end(studio, studio.submit(make_request()).id)
    assert (job.state, job.engine, job.frames_done) == ("finished", "s2v", job.num_frames)


def test_after_two_breakdowns_fewer_cards_are_used_and_the_job_says_so(
    start: Callable[..., Studio], make_request: Callable[..., GenerationRequest]
) -> None:
    studio = start()
    for _ in range(2):
        failed = wait_for_end(studio, studio.submit(make_request("kill@1:2")).id)
        assert failed.diagnosis is not None
        assert failed.diagnosis.code == "engine_killed"
        assert "graphics card 2 of 4 (H800, steps 1-4, layers 14-27)" in failed.diagnosis.cause
    job = wait_for_end(studio, studio.submit(make_request()).id)
    assert job.state == "finished"
    assert len(ranks(studio)) == 3
    assert any("fewer cards are used" in note.text for note in job.notes)


def test_cards_that_the_app_may_not_use_are_not_planned_with(start: Callable[..., Studio]) -> None:
    studio = start(visible_cards="4,GPU-2")
    wait_until(lambda: studio.engine_status().state == "ready")
    shown = {rank.environ()["CUDA_VISIBLE_DEVICES"] for rank in ranks(studio)}
    assert len(ranks(studio)) == 2
    assert shown <= {"GPU-4,GPU-2", "GPU-2,GPU-4"}
    assert len(shown) == 1

"""What the engine measures of itself reaches the gauge: real processes, a replayed driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from liveavatar.config import AppConfig
from liveavatar.core.job import JobState
from liveavatar.core.memory import GIB
from liveavatar.core.request import GenerationRequest
from liveavatar.monitoring.hardware import HardwareMonitor
from liveavatar.monitoring.trace import read_trace
from liveavatar.service.facade import Studio
from tests.conftest import wait_for_end, wait_until
from tests.fakes.replayed_nvml import ReplayedNvml
from ui.metrics import studio_metrics
from ui.state import engine_json, hardware_json

MakeRequest = Callable[..., GenerationRequest]
TRACE = Path(__file__).parents[1] / "data" / "monitoring" / "one_gpu.jsonl"


@pytest.fixture
def nvml() -> ReplayedNvml:
    """A driver at the moment in which an engine holds 61 GB."""
    nvml = ReplayedNvml(read_trace(TRACE))
    nvml.position = next(n for n, reading in enumerate(nvml.readings) if reading.time_s >= 18)
    return nvml


@pytest.fixture
def studio(fake_config: AppConfig, nvml: ReplayedNvml) -> Iterator[Studio]:
    studio = Studio(fake_config, monitor=HardwareMonitor(reader=nvml.reader()))
    studio.start()
    yield studio
    studio.close()


def item_bytes(studio: Studio) -> dict[str, int]:
    (gauge,) = studio.card_gauges()
    return {item.name: item.num_bytes for item in gauge.items}


def test_the_gauge_knows_items_after_loading_during_and_after_a_video(
    studio: Studio, make_request: MakeRequest
) -> None:
    wait_until(lambda: studio.engine_status().state == "ready")
    assert "weights" in item_bytes(studio)
    assert "key-value caches" not in item_bytes(studio)
    assert engine_json(studio)["block_s"] is None
    job = studio.submit(make_request("slow", seconds=60.0))
    wait_until(lambda: "key-value caches" in item_bytes(studio))
    (gauge,) = studio.card_gauges()
    assert gauge.own_bytes is not None
    assert item_bytes(studio) == {
        "weights": 30 * GIB,
        "key-value caches": 9 * GIB,
        "working memory": 11 * GIB,
        "CUDA context": gauge.own_bytes - 50 * GIB,
    }
    assert engine_json(studio)["block_s"] == 0.25
    metrics = studio_metrics(studio).splitlines()
    assert 'liveavatar_jobs{state="running"} 1' in metrics
    assert 'liveavatar_jobs{state="queued"} 0' in metrics
    assert 'liveavatar_engine_state{state="busy"} 1' in metrics
    assert 'liveavatar_engine_block_seconds{rank="0"} 0.25' in metrics
    assert f'liveavatar_engine_item_bytes{{rank="0",item="key-value caches"}} {9 * GIB}' in metrics
    (gpu,) = hardware_json(studio)["gpus"]
    assert sum(item["bytes"] for item in gpu["items"]) == gpu["own_bytes"]

    studio.stop(job.id)
    wait_for_end(studio, job.id)
    wait_until(lambda: "key-value caches" not in item_bytes(studio))
    assert item_bytes(studio)["weights"] == 30 * GIB
    assert engine_json(studio)["block_s"] is None


def test_an_engine_that_dies_leaves_no_items(studio: Studio, make_request: MakeRequest) -> None:
    job = studio.submit(make_request("exit"))
    assert wait_for_end(studio, job.id).state is JobState.FAILED
    wait_until(lambda: "key-value caches" not in item_bytes(studio))


def test_the_driver_dies_while_a_video_is_made(
    studio: Studio, nvml: ReplayedNvml, make_request: MakeRequest
) -> None:
    job = studio.submit(make_request("slow"))
    wait_until(lambda: studio.job(job.id).frames_done > 0)
    nvml.dies()
    wait_until(lambda: not hardware_json(studio)["gpus"])
    told = hardware_json(studio)
    assert [warning["code"] for warning in told["warnings"]] == ["driver_silent"]
    assert told["host_total_bytes"] > 0
    assert wait_for_end(studio, job.id).state is JobState.FINISHED

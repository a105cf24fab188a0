"""The forecast against whole runs on H200: 2 % below the memory that one took at most, 5 % above; speed within 6 %."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from liveavatar.core.parallel import ParallelPlan
from liveavatar.planning.calibration import NOTHING_MEASURED
from liveavatar.planning.evaluation import Evaluator
from liveavatar.planning.layouts import Configuration
from liveavatar.planning.machine_text import parse_machine
from liveavatar.planning.memory_model import RankRole, forecast_bytes
from liveavatar.planning.model_spec import VideoSize
from tests.conftest import REPOSITORY

SIZE = VideoSize(704, 384)
CARDS = REPOSITORY / "benchmarks" / "results" / "2026-11-26_s2v_parallel_4_h200.json"
MODES = REPOSITORY / "benchmarks" / "results" / "2026-11-26_s2v_modes_h200.json"
FIELDS = {field.name for field in dataclasses.fields(RankRole)}


def runs_of(path: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return runs


def test_there_are_enough_of_them() -> None:
    assert len(runs_of(MODES)) >= 8


@pytest.mark.parametrize("run", runs_of(MODES), ids=lambda run: run["mode"])
def test_forecast_of_a_run(run: dict[str, Any]) -> None:
    known = {name: value for name, value in run.items() if name in FIELDS}
    role = RankRole(size=VideoSize(run["width"], run["height"]), encodes_speech=True, **known)
    assert 0.98 <= forecast_bytes(role) / 1e9 / run["peak_used_gb"] <= 1.05


def layouts_of(path: Path) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [line for line in lines if "block_s" in line]


@pytest.mark.parametrize("line", layouts_of(CARDS), ids=lambda line: line["plan"])
def test_predicted_speed_of_several_cards(line: dict[str, Any]) -> None:
    parallel = ParallelPlan(step_split=tuple(map(int, line["plan"].split("+"))))
    gpus = parse_machine(f"{parallel.world_size}xH200").gpus
    evaluator = Evaluator(gpus, None, SIZE, NOTHING_MEASURED)
    configuration = Configuration(parallel=parallel, precision=line["precision"], kv_precision=line["kv"])
    assert evaluator.speed.block_seconds(configuration) == pytest.approx(line["block_s"], rel=0.06)

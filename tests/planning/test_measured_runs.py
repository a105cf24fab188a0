"""The forecast against whole runs on an H200: never 2 % below what one took, nor 5 % above."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from liveavatar.planning.memory_model import RankRole, forecast_bytes
from liveavatar.planning.model_spec import VideoSize
from tests.conftest import REPOSITORY

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

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from liveavatar.core.hardware import Machine
from liveavatar.planning.calibration import (
    NOTHING_MEASURED,
    STEP_TIME,
    load_calibration,
    save_calibration,
)
from liveavatar.planning.candidates import candidates
from liveavatar.planning.machine_text import parse_machine
from liveavatar.planning.model_spec import VideoSize

H200 = parse_machine("1xH200").gpus[0]
SIZE = VideoSize(704, 384)


def test_memory_follows_the_largest_measurement_and_time_the_median() -> None:
    calibration = NOTHING_MEASURED
    for measured in (95, 110, 90):
        calibration = calibration.learned(H200, "decoder working memory", forecast=100, measured=measured)
        calibration = calibration.learned(H200, STEP_TIME, forecast=100, measured=measured)
    assert calibration.memory_factors(H200) == {"decoder working memory": 1.1}
    assert calibration.time_factor(H200) == pytest.approx(0.95)


def test_old_measurements_are_forgotten_and_wild_ones_bounded() -> None:
    calibration = NOTHING_MEASURED.learned(H200, "decoder working memory", forecast=1, measured=50)
    assert calibration.memory_factors(H200) == {"decoder working memory": 2.0}
    for _ in range(10):
        calibration = calibration.learned(H200, "decoder working memory", forecast=100, measured=101)
    assert calibration.memory_factors(H200) == {"decoder working memory": 1.01}
    with pytest.raises(ValueError, match="must be positive"):
        calibration.learned(H200, "decoder working memory", forecast=0, measured=1)


def test_another_driver_or_card_starts_anew() -> None:
    calibration = NOTHING_MEASURED.learned(H200, "decoder working memory", forecast=100, measured=110)
    assert calibration.memory_factors(dataclasses.replace(H200, driver="600")) == {}
    assert calibration.memory_factors(parse_machine("1xH100").gpus[0]) == {}


def test_forecast_and_speed_follow() -> None:
    machine = Machine(gpus=(H200,))
    plain = candidates(machine, SIZE)[0]
    learned = NOTHING_MEASURED.learned(H200, "decoder working memory", forecast=100, measured=150)
    learned = learned.learned(H200, STEP_TIME, forecast=100, measured=120)
    corrected = candidates(machine, SIZE, calibration=learned)[0]
    assert corrected.fps == pytest.approx(plain.fps / 1.2)
    budget, before = corrected.details.budgets[0], plain.details.budgets[0]
    assert budget.item_bytes("decoder working memory") == pytest.approx(
        1.5 * before.item_bytes("decoder working memory")
    )
    assert next(item for item in budget.items if item.name == "decoder working memory").basis == "measured"


def test_what_was_learned_survives_and_a_damaged_file_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    assert load_calibration(path) == NOTHING_MEASURED
    calibration = NOTHING_MEASURED.learned(H200, "weights", forecast=100, measured=103)
    save_calibration(calibration, path)
    assert load_calibration(path) == calibration
    path.write_text("[{]")
    assert load_calibration(path) == NOTHING_MEASURED

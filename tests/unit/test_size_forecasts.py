"""What the cards of "Picture size" promise before a video is asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.planning.machine_text import parse_machine
from liveavatar.planning.model_spec import TRANSFORMER_PARAMETERS
from liveavatar.planning.s2v_request import S2vSetup
from liveavatar.service.size_forecasts import SizeForecasts, forecast_sizes, predicted_fps

GIB = 1024**3
FILES = ModelFiles(checkpoint="/c", lora="/l", cache="/d")


def setup(machine: str, *, others_gib: float = 0.0) -> S2vSetup:
    gpus = tuple(
        dataclasses.replace(gpu, other_programs_bytes=int(others_gib * GIB))
        for gpu in parse_machine(machine).gpus
    )
    return S2vSetup(files=FILES, num_parameters=TRANSFORMER_PARAMETERS, gpus=gpus)


def test_what_fits_is_made_as_asked() -> None:
    standard = forecast_sizes(setup("1xH200"))["standard"]
    assert standard.fits
    assert standard.made == (704, 384), "720*400 in multiples of 64"


def test_how_fast_is_promised_too() -> None:
    alone, busy = (forecast_sizes(setup("1xH200", others_gib=gib))["standard"].fps for gib in (0, 100))
    assert alone is not None
    assert alone == pytest.approx(17.1, abs=0.5)
    assert busy is not None
    assert busy < alone
    assert predicted_fps(ExecutionPlan(engine="portrait", width=720, height=400)) is None


def test_the_more_others_hold_the_smaller_is_what_is_made() -> None:
    forecasts = [forecast_sizes(setup("1xH200", others_gib=gib))["large"] for gib in range(0, 140, 5)]
    areas = [each.made[0] * each.made[1] if each.made else 0 for each in forecasts]
    assert areas == sorted(areas, reverse=True)
    assert all(each.fits == (each.made == (1280, 704)) for each in forecasts)
    assert len(set(areas) - {0, 1280 * 704}) >= 2, "smaller ones are made before none is"


def test_where_nothing_fits_nothing_is_promised() -> None:
    forecasts = forecast_sizes(setup("1xH200", others_gib=138))
    assert {(each.made, each.fits) for each in forecasts.values()} == {(None, False)}


def test_the_built_in_engine_promises_nothing_and_needs_nothing() -> None:
    assert forecast_sizes(S2vSetup()) == {}
    assert forecast_sizes(dataclasses.replace(setup("1xH200"), gpus=())) == {}


def test_plans_are_made_anew_only_when_something_changed(tmp_path: Path) -> None:
    now = [setup("1xH200")]
    num_asked = 0

    def find() -> S2vSetup:
        nonlocal num_asked
        num_asked += 1
        return now[0]

    forecasts = SizeForecasts(find)
    first = forecasts.read()
    now[0] = setup("1xH200", others_gib=138)
    assert forecasts.read() is first
    assert num_asked == 1, "the files are not looked at for every page"

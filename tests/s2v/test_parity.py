"""Every golden case, through the runner that the command line uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.parity.golden import GoldenCase, iterate_cases, load_case
from tests.parity.run import case_runners, failures, report, tolerance

GOLDEN = Path(__file__).parents[1] / "golden"
RUNNERS = case_runners()
# The single-GPU pipeline decodes 92 old latent frames for every clip: minutes on a busy machine. One clip is run here,
# the longer records by `python tests/parity/run.py tests/golden`.
LONG_CASES = ("e2e_single_public", "e2e_single_public_online")
CASES = [case.name for case in iterate_cases(GOLDEN) if case.name not in LONG_CASES]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks only lose time to several threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize("name", CASES)
def test_golden_case(name: str) -> None:
    case = load_case(GOLDEN / f"{name}.json")
    errors = RUNNERS[case.kind](case)
    assert not failures(case, errors), errors


def test_every_kind_is_there() -> None:
    assert {case.kind for case in iterate_cases(GOLDEN)} == set(RUNNERS)


def test_an_unknown_kind_and_an_empty_result_fail(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = GoldenCase(name="new", manifest={"kind": "telepathy"}, directory=GOLDEN)
    assert not report(unknown, RUNNERS)
    assert "unsupported" in capsys.readouterr().out
    assert not report(unknown, {"telepathy": lambda _: {}})
    assert not report(unknown, {"telepathy": lambda _: {"output": float("nan")}})
    assert not report(unknown, {"telepathy": lambda _: {"output": 2e-4}})
    assert report(unknown, {"telepathy": lambda _: {"output": 5e-5}})


def test_tolerances() -> None:
    assert tolerance("transformer", "call0.out") == 1e-5
    assert tolerance("vae", "decode") == 1e-4
    assert tolerance("e2e_tpp", "latents") == 1e-3

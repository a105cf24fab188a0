from __future__ import annotations

import json

import pytest

from liveavatar import cli
from liveavatar.cli.plan import installed_machine
from liveavatar.core.memory import GIB
from liveavatar.monitoring.hardware import GpuSample, HardwareMonitor, HardwareSnapshot


def test_the_answer_for_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--gpus", "5x24", "--size", "720*400"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 x 24 GB card, 23.6 GB each"
    assert "Plans that run, the best of each kind" in lines
    header = next(index for index, line in enumerate(lines) if line.startswith("  rank  card"))
    columns = lines[header].index("may use") + len("may use")
    assert all(line[:columns].endswith("23.2") for line in lines[header + 1 : header + 6])
    assert max(map(len, lines)) < 220


def test_the_answer_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--gpus", "1xH200", "--size", "720*400", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["width"], answer["height"], answer["steps"]) == (704, 384, 4)
    assert answer["best"]["fps"] == pytest.approx(17.3, rel=0.03)
    rank = answer["best"]["ranks_in_detail"][0]
    assert sum(item["bytes"] for item in rank["items"]) == rank["needed_bytes"] <= rank["available_bytes"]


def test_wishes_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(
        ["plan", "--gpus", "2xH200", "--steps", "2", "--precision", "bf16", "--kv", "fp8", "--json", "--all"]
    )
    answer = json.loads(capsys.readouterr().out)
    assert answer["steps"] == 2
    assert {plan["precision"] for plan in answer["plans"]} == {"bf16"}
    assert {plan["kv_precision"] for plan in answer["plans"]} == {"fp8"}


def test_nothing_fits_is_an_answer_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--gpus", "1x4"]) == 1
    assert "Nothing fits at 384x256." in capsys.readouterr().out


def test_a_precision_that_the_cards_do_not_know_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--gpus", "2xA100", "--precision", "fp8"]) == 1
    told = capsys.readouterr().out
    assert "The A100 80 GB cannot multiply in 8 bits." in told
    assert "384x256 fits when the precision of weights and caches is left open." in told


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--gpus", "banana"], "cannot be read"),
        (["--gpus", "5x24", "--size", "3*3"], "is not offered"),
        (["--gpus", "5x24", "--min-fps", "0"], "--min-fps cannot be 0."),
        (["--gpus", "5x24", "--host-memory", "-1"], "--host-memory cannot be -1."),
    ],
)
def test_nonsense_exits_with_two_and_a_sentence(
    capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert cli.main(["plan", *options]) == 2
    assert sentence in capsys.readouterr().err
    assert cli.main(["plan", *options, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["remedy"]


def _snapshot(*names: str, problem: str = "") -> HardwareSnapshot:
    gpus = tuple(
        GpuSample(
            index=index, name=name, total_bytes=48 * GIB, used_bytes=8 * GIB, free_bytes=40 * GIB,
            utilisation=None, temperature=None,
        )
        for index, name in enumerate(names)
    )  # fmt: skip
    return HardwareSnapshot(
        gpus=gpus, problem=problem, host_total_bytes=64 * GIB, host_available_bytes=60 * GIB, num_cores=8
    )


def test_this_machines_cards(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(HardwareMonitor, "snapshot", lambda _: _snapshot("NVIDIA L40S", "NVIDIA L40S"))
    assert cli.main(["plan"]) == 0
    assert capsys.readouterr().out.startswith("2 x L40S, 48.0 GB each, 16.0 GB of it taken by other programs")


def test_what_is_not_known_about_this_machine_is_said() -> None:
    machine, notes = installed_machine(_snapshot("Unheard Of 9", "Unheard Of 9", problem="A problem."))
    assert machine.host_bytes == 64 * GIB
    assert notes == [
        "A problem.",
        "Unheard Of 9 is not in the table; its speed is taken from a card with as much memory.",
    ]

"""python -m liveavatar generate, with the fake engine in a real worker process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from liveavatar import cli
from liveavatar.config import AppConfig
from tests.conftest import FAST_DEADLINES


@pytest.fixture(autouse=True)
def _fake_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = AppConfig(data_dir=tmp_path, worker_module="tests.fakes.worker", deadlines=FAST_DEADLINES)
    monkeypatch.setattr(AppConfig, "from_environment", lambda: config)


@pytest.fixture
def arguments(picture: Path, make_voice: Callable[[float], Path], tmp_path: Path) -> list[str]:
    return [
        "generate", "--image", str(picture), "--audio", str(make_voice(4.0)), "--size", "384x256",
        "--out", str(tmp_path / "out.mp4"),
    ]  # fmt: skip


def test_a_whole_video_exits_with_zero(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "--json", "--prompt", "notice"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["event"] == "accepted"
    assert {"event": "notice", "text": "A sentence for the operator."} in events
    assert events[-1] == {
        "event": "finished",
        "path": str(tmp_path / "out.mp4"),
        "size": "384*256",
        "num_frames": 100,
        "size_asked": "384x256",
        "changes": [],
    }
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].frames == 100


def test_the_receipt_names_what_was_made_otherwise(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "--json", "--prompt", "shrink"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    receipt = events[-1]["changes"]
    assert [{"event": "changed", **change} for change in receipt] == [
        event for event in events if event["event"] == "changed"
    ]
    assert [(change["first_frame"], change["before"], change["after"]) for change in receipt] == [
        (10, "384*256", "128*128")
    ]
    assert events[-1]["size"] == "384*256", "the file keeps its size"
    notices = [event["text"] for event in events if event["event"] == "notice"]
    assert "From 0.4 s on: 128*128 instead of 384*256. It was told to." in notices


def test_a_broken_off_video_is_kept_beside(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "--prompt", "crash"]) == 1
    assert not (tmp_path / "out.mp4").exists()
    assert (tmp_path / "out.partial.mp4").stat().st_size > 0
    assert "The engine crashed." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--size", "3*3"], "is not offered"),
        (["--engine", "s2v"], "not set up"),
        (["--image", "nowhere.png"], "does not exist"),
        (["--audio", "nowhere.wav"], "does not exist"),
        (["--out", "/nowhere/x.mp4"], "cannot be written"),
        (["--out", "x.avi"], "must end in .mp4"),
        (["--seed", "-4"], "seed"),
    ],
)
def test_bad_input_exits_with_two_and_a_sentence(
    arguments: list[str], capsys: pytest.CaptureFixture[str], changes: list[str], sentence: str
) -> None:
    assert cli.main([*arguments, *changes]) == 2
    assert sentence in capsys.readouterr().err
    assert cli.main([*arguments, *changes, "--json"]) == 2
    event = json.loads(capsys.readouterr().out)
    assert event["event"] == "failed"
    assert event["remedy"]


def test_clicks_are_read_and_nonsense_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.generate._clicks(".4,.6 .5,.6 .45,.7 .4,.5").eyes == ((0.4, 0.5),)
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--face", "1,2"])
    assert "three to five points" in capsys.readouterr().err

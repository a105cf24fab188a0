"""The bench command, on networks of the real layout and tiny width."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from liveavatar.cli import main


def test_tiny_networks_are_measured_from_start_to_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    exit_code = main(
        [
            "bench",
            "--random-weights",
            "tiny",
            "--size",
            "64*64",
            "--steps",
            "2",
            "--blocks",
            "2",
            "--out",
            str(out),
        ]
    )
    assert exit_code == 0
    stages = json.loads(out.read_text())
    assert stages["machine"]["versions"]["torch"]
    assert stages["video"]["steady_blocks"] == 2
    assert stages["video"]["fps"] > 0
    block_ms = sum(stages["stages"][name] for name in ("denoise_ms", "decode_ms"))
    assert stages["stages"]["step_ms"] == pytest.approx(stages["stages"]["denoise_ms"] / 2, abs=0.1)
    assert block_ms > 0
    assert "steady_blocks 2" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["7*7", "704", "large"])
def test_a_size_that_makes_no_sense_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--size", size]) == 2
    assert f"--size {size} makes no sense" in capsys.readouterr().err


def test_a_frugal_plan_is_measured_like_any_other(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    frugal = ["--precision", "fp8", "--kv", "fp8", "--kv-offload", "--resident-blocks", "1"]
    tiny = ["--random-weights", "tiny", "--size", "64*64", "--steps", "1", "--blocks", "1", "--out", str(out)]
    assert main(["bench", *frugal, *tiny]) == 0
    stages = json.loads(out.read_text())
    assert stages["options"]["resident_blocks"] == 1
    assert stages["video"]["fps"] > 0


def test_caches_that_cannot_be_in_host_memory_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--kv", "int8", "--kv-offload"]) == 2
    assert "--kv-offload" in capsys.readouterr().err

"""The app's options, and what a Hugging Face Space reads before it starts the app."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import app
from tests.conftest import REPOSITORY


def test_options_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "8000")
    config = app._parse([])
    assert (config.host, config.port) == ("0.0.0.0", 8000)
    config = app._parse(["--host", "127.0.0.1", "--port", "9000"])
    assert (config.host, config.port) == ("127.0.0.1", 9000)


def test_the_header_of_the_readme_fits_the_project() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf8")
    header = dict(re.findall(r"^(\w+): (.+)$", text.split("---")[1], re.MULTILINE))
    pins = (REPOSITORY / "requirements.txt").read_text(encoding="utf8")
    assert header["sdk"] == "gradio"
    assert f"gradio=={header['sdk_version']}\n" in pins, "the Space installs this version of its own accord"
    assert header["python_version"].strip('"') in ("3.11", "3.12", "3.13")
    assert Path(app.__file__) == REPOSITORY / header["app_file"]
    assert len(header["short_description"]) <= 60, "longer ones are refused"

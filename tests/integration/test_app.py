"""`python app.py` as a person starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY, wait_until
from tests.free_port import free_port


def start(data_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"LIVEAVATAR_DATA_DIR": str(data_dir)}
    return subprocess.Popen(  # from another folder: nothing may depend on where it is started
        [sys.executable, str(REPOSITORY / "app.py"), *arguments],
        cwd=data_dir,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def app(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    port = free_port()
    process = start(tmp_path, "--port", str(port))
    wait_until(lambda: answers(port), timeout_s=120)
    yield process
    process.kill()
    process.communicate()


def worker_of(app: subprocess.Popen[str]) -> psutil.Process | None:
    children = psutil.Process(app.pid).children()
    return next((child for child in children if "liveavatar.worker" in child.cmdline()), None)


def test_the_app_never_loads_torch_and_takes_its_worker_along(
    app: subprocess.Popen[str], tmp_path: Path
) -> None:
    wait_until(lambda: worker_of(app) is not None)
    worker = worker_of(app)
    assert worker is not None
    wait_until(lambda: any("libtorch" in library.path for library in worker.memory_maps()))
    assert not any("libtorch" in library.path for library in psutil.Process(app.pid).memory_maps())

    refused = start(tmp_path)  # the same data folder
    _, message = refused.communicate(timeout=120)
    assert refused.returncode == 1
    assert "already running" in message

    app.send_signal(signal.SIGTERM)
    assert app.wait(timeout=60) == 0
    wait_until(lambda: not worker.is_running())


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        process = start(tmp_path, "--port", str(other.getsockname()[1]))
        _, message = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "--port" in message


def test_a_bad_setting_is_said(tmp_path: Path) -> None:
    process = start(tmp_path, "--port", "0")
    _, message = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "port must be" in message

"""Run directories: what a killed process leaves is removed by the next, what is in use or not ours is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from liveavatar.service.run_directory import RunDirectory
from tests.conftest import REPOSITORY

OWNER = """
import time
from liveavatar.service.run_directory import RunDirectory
directory = RunDirectory()
(directory.path / "rank-0.stacks.txt").touch()
print(directory.path, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def test_it_is_private_and_removed_with_its_content(parent: Path) -> None:
    directory = RunDirectory()
    assert directory.path.parent == parent
    assert directory.path.stat().st_mode & 0o777 == 0o700
    (directory.path / "wire.json").touch()
    directory.remove()
    assert list(parent.iterdir()) == []


def test_what_a_killed_owner_left_is_removed_by_the_next(parent: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert owner.stdout is not None
    held = Path(owner.stdout.readline().strip())
    first = RunDirectory()
    assert (held / "rank-0.stacks.txt").exists(), "its owner lives"
    owner.kill()
    owner.communicate()
    second = RunDirectory()
    assert set(parent.iterdir()) == {first.path, second.path}
    first.remove()
    second.remove()


def test_other_directories_and_links_stay(parent: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kept").touch()
    link, other = parent / "liveavatar-run-link", parent / "liveavatar-something"
    link.symlink_to(elsewhere)
    other.mkdir()
    RunDirectory().remove()
    assert set(parent.iterdir()) == {link, other}
    assert (elsewhere / "kept").exists()

"""Downloading the model: the real client against a hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from liveavatar.cli.fetch import CHECKPOINT_FOLDER, LORA_FOLDER, needed_files
from liveavatar.diagnostics.doctor import LORA_REPOSITORY, REPOSITORY
from tests.fakes.model_hub import ModelHub
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    checkpoint = write_tiny_checkpoint(tmp_path / "published")
    (checkpoint / "demo.mp4").write_bytes(b"not needed")
    hub = ModelHub({REPOSITORY: checkpoint, LORA_REPOSITORY: checkpoint.parent / LORA_FOLDER})
    yield hub
    hub.close()


_MAIN = "from liveavatar.cli import main; sys.exit(main(sys.argv[1:]))"


def fetch(
    folder: Path, address: str, *, start: Sequence[str] = ("-m", "liveavatar")
) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder.parent / "hub")}
    return subprocess.run(
        [sys.executable, *start, "fetch", "--to", str(folder)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_model_is_fetched_once_and_checked(hub: ModelHub, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    first = fetch(folder, hub.address)
    assert first.returncode == 0, first.stderr
    assert "100%|" in first.stderr, "a progress bar is drawn"
    assert f"--ckpt-dir {folder / CHECKPOINT_FOLDER}" in first.stdout
    assert not (folder / CHECKPOINT_FOLDER / "demo.mp4").exists()
    sent = hub.sent
    assert fetch(folder, hub.address).returncode == 0
    assert hub.sent == sent, "what is there is not fetched again"


def test_without_a_network_it_says_so(tmp_path: Path) -> None:
    answer = fetch(tmp_path / "models", "http://127.0.0.1:9")
    assert answer.returncode == 1
    assert answer.stderr.startswith("The model could not be downloaded.")
    assert "goes on where it stopped" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_disk_without_room_is_told_before_anything_is_fetched(hub: ModelHub, tmp_path: Path) -> None:
    full_disk = "import shutil, sys; shutil.disk_usage = lambda _: type('Usage', (), {'free': 0}); "
    answer = fetch(tmp_path / "models", hub.address, start=["-c", full_disk + _MAIN])
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1].startswith("The disk has too little room for the model.")
    assert hub.sent == 0


def test_one_file_of_speech_weights_is_enough() -> None:
    folder = "wav2vec2-large-xlsr-53-english"
    offered = [
        "config.json", "README.md", "diffusion_pytorch_model-00001-of-00004.safetensors", "Wan2.1_VAE.pth",
        f"{folder}/config.json", f"{folder}/pytorch_model.bin", f"{folder}/model.safetensors",
        f"{folder}/flax_model.msgpack",
    ]  # fmt: skip
    needed = needed_files(offered)
    assert f"{folder}/model.safetensors" in needed
    assert not {"README.md", f"{folder}/pytorch_model.bin", f"{folder}/flax_model.msgpack"} & set(needed)
    assert f"{folder}/pytorch_model.bin" in needed_files(
        [name for name in offered if "model.safe" not in name]
    )

"""The checkpoint check: every way a folder can be wrong gets a sentence that says what to fetch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from liveavatar import cli
from liveavatar.diagnostics.doctor import inspect_checkpoint
from liveavatar.loading.file_headers import DamagedFile, read_headers
from tests.tiny_checkpoint import write_tiny_checkpoint

SHARD = "diffusion_pytorch_model-00002-of-00004.safetensors"
TEXT_ENCODER = "models_t5_umt5-xxl-enc-bf16.pth"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be broken."""
    shutil.copytree(whole.parent, tmp_path / "copy")
    return tmp_path / "copy" / whole.name


def test_a_whole_checkpoint(whole: Path) -> None:
    report = inspect_checkpoint(whole)
    assert report.is_usable
    assert report.part("transformer").precision == "bfloat16"
    assert report.part("text encoder").precision == "bfloat16"
    assert report.part("video autoencoder").precision == "float32"
    assert len(report.part("video autoencoder").tensors) == 194
    tensors = torch.load(whole / "Wan2.1_VAE.pth", weights_only=True)
    assert report.part("video autoencoder").num_parameters == sum(
        tensor.numel() for tensor in tensors.values()
    )


def truncate(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def replace_by_pointer(name: str) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n") and None
    )


def swap(name: str, other: str) -> Callable[[Path], None]:
    return lambda folder: shutil.copyfile(folder / other, folder / name) and None


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (remove(SHARD), "missing_file", [SHARD, "hf download Wan-AI/Wan2.2-S2V-14B"]),
        (truncate(SHARD), "damaged_file", [SHARD, "truncated", "MB"]),
        (truncate(TEXT_ENCODER), "damaged_file", [TEXT_ENCODER, "truncated"]),
        (remove("Wan2.1_VAE.pth"), "missing_file", ["Wan2.1_VAE.pth"]),
        (replace_by_pointer("Wan2.1_VAE.pth"), "damaged_file", ["Git LFS pointer"]),
        (swap("Wan2.1_VAE.pth", TEXT_ENCODER), "damaged_file", ["something else", "decoder.conv1.weight"]),
        (swap(SHARD, SHARD.replace("2-of", "1-of")), "damaged_file", [SHARD, "lacks"]),
        (remove("google/umt5-xxl/tokenizer.json"), "missing_file", ["google/umt5-xxl/tokenizer.json"]),
        (remove("config.json"), "missing_file", ["config.json"]),
        (truncate("config.json"), "damaged_file", ["config.json", "JSON"]),
        (remove("wav2vec2-large-xlsr-53-english/model.safetensors"), "missing_file", ["model.safetensors"]),
        (remove("../LiveAvatar/liveavatar.safetensors"), "missing_lora", ["Quark-Vision/Live-Avatar"]),
    ],
)
def test_one_broken_file(
    checkpoint: Path, change: Callable[[Path], None], code: str, words: list[str]
) -> None:
    change(checkpoint)
    report = inspect_checkpoint(checkpoint)
    assert not report.is_usable
    (problem,) = report.problems
    assert problem.code == code
    for word in words:
        assert word in problem.sentence()


def test_another_model(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "i2v"}))
    (problem,) = inspect_checkpoint(checkpoint).problems
    assert problem.code == "wrong_model"
    assert "image-to-video" in problem.title


def test_the_folder_around_the_checkpoint(whole: Path) -> None:
    (problem,) = inspect_checkpoint(whole.parent).problems
    assert str(whole) in problem.remedy


def test_the_folder_of_the_lora(whole: Path) -> None:
    (problem,) = inspect_checkpoint(whole.parent / "LiveAvatar").problems
    assert "LoRA" in problem.title


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("this must not be printed",)

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(DamagedFile, match=r"builtin.*print"):
        read_headers(tmp_path / "evil.pth")


def test_command_line(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--checkpoint", str(whole)]) == 0
    assert "whole" in capsys.readouterr().out
    assert cli.main(["doctor", "--checkpoint", str(tmp_path), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert not answer["usable"]
    assert answer["problems"][0]["code"] == "wrong_folder"


def test_it_needs_no_torch() -> None:
    code = "import sys, liveavatar.diagnostics.doctor; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

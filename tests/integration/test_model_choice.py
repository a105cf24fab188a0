"""The folder of the s2v engine's model is named on the page, checked, used from the next video on and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from liveavatar.config import AppConfig
from liveavatar.core.errors import InputRejected
from liveavatar.core.job import JobState
from liveavatar.core.request import GenerationRequest
from liveavatar.service.facade import Studio
from liveavatar.service.model_choice import ModelChoice, ModelFolders
from tests.conftest import wait_for_end
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_a_running_app_takes_up_a_model(
    checkpoint: Path, tmp_path: Path, make_voice: Callable[[float], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "OMP_NUM_THREADS", "1"
    )  # tiny convolutions on several threads mostly wait for each other
    picture = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(picture)
    request = GenerationRequest(
        image_path=str(picture), audio_path=str(make_voice(0.5)), prompt="she smiles", engine="s2v"
    )
    config = AppConfig(data_dir=tmp_path / "data")
    studio = Studio(config)
    studio.start()
    try:
        with pytest.raises(InputRejected, match="not set up"):
            studio.submit(request)
        studio.model.choose(f" {checkpoint} ", "")
        job = wait_for_end(studio, studio.submit(request).id, timeout_s=180)
        assert (job.state, job.engine) == (JobState.FINISHED, "s2v"), job.diagnosis
    finally:
        studio.close()
    assert ModelChoice(config).folders == ModelFolders(ckpt_dir=checkpoint)


def test_a_folder_that_cannot_be_used_changes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    choice = ModelChoice(AppConfig(data_dir=tmp_path))
    choice.choose(str(checkpoint), "")
    with pytest.raises(InputRejected, match="does not exist"):
        choice.choose(str(tmp_path / "nowhere"), "")
    assert choice.folders.ckpt_dir == checkpoint
    choice.choose("", "")
    assert ModelChoice(AppConfig(data_dir=tmp_path)).folders == ModelFolders()


def test_what_was_named_at_the_start_stands(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"ckpt_dir": "/elsewhere"}))
    choice = ModelChoice(AppConfig(data_dir=tmp_path, ckpt_dir=checkpoint))
    assert choice.is_fixed
    assert choice.folders.ckpt_dir == checkpoint


@pytest.mark.parametrize("text", ["", "[]", '{"colour": "red"}', '{"ckpt_dir": 3}'])
def test_a_damaged_note_of_the_choice_does_no_harm(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(text)
    assert ModelChoice(AppConfig(data_dir=tmp_path)).folders == ModelFolders()


def test_only_a_page_of_this_machine_alone_asks() -> None:
    here = Path("/data")
    assert AppConfig(data_dir=here).is_for_this_machine_alone
    assert not AppConfig(data_dir=here, host="0.0.0.0").is_for_this_machine_alone
    assert not AppConfig(data_dir=here, per_visitor=True).is_for_this_machine_alone

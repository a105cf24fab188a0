"""Inputs and studios shared by the tests."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks on several threads mostly wait for each other

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from liveavatar.config import AppConfig, Deadlines
from liveavatar.core.job import Job
from liveavatar.core.request import GenerationRequest
from liveavatar.service.facade import Studio

REPOSITORY = Path(__file__).parents[1]
FAST_DEADLINES = Deadlines(start_s=60, load_s=60, first_chunk_s=60, chunk_s=30, stop_s=1.5, shutdown_s=2)


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture without a face."""
    path = tmp_path_factory.mktemp("inputs") / "picture.png"
    ramp = np.linspace(0, 255, 320, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (200, 320, 3)).copy()).save(path)
    return path


@pytest.fixture(scope="session")
def make_voice(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Write a tone with the rhythm of syllables, as long as asked."""
    folder = tmp_path_factory.mktemp("voices")

    def make(seconds: float, rate: int = 16_000) -> Path:
        path = folder / f"voice_{seconds}_{rate}.wav"
        time_s = np.arange(int(seconds * rate)) / rate
        sound = 0.3 * np.sin(2 * np.pi * 180 * time_s) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * time_s))
        soundfile.write(path, sound.astype(np.float32), rate)
        return path

    return make


@pytest.fixture
def make_request(picture: Path, make_voice: Callable[[float], Path]) -> Callable[..., GenerationRequest]:
    """Return a request for the fake engine."""

    def make(prompt: str = "", seconds: float = 4.0, size: str = "384*256") -> GenerationRequest:
        return GenerationRequest(
            image_path=str(picture), audio_path=str(make_voice(seconds)), prompt=prompt, size=size
        )

    return make


@pytest.fixture
def fake_config(tmp_path: Path) -> AppConfig:
    """Settings for a studio whose worker holds the fake engine."""
    return AppConfig(data_dir=tmp_path / "data", worker_module="tests.fakes.worker", deadlines=FAST_DEADLINES)


@pytest.fixture
def studio(fake_config: AppConfig) -> Iterator[Studio]:
    """A running studio with the fake engine in a real worker process."""
    studio = Studio(fake_config)
    studio.start()
    yield studio
    studio.close()


def wait_until(condition: Callable[[], object], *, timeout_s: float = 60.0) -> None:
    """Return as soon as `condition` holds; fail the test when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def wait_for_end(studio: Studio, job_id: str, *, timeout_s: float = 120.0) -> Job:
    """Return the job once it has ended."""
    wait_until(lambda: studio.job(job_id).state.is_terminal, timeout_s=timeout_s)
    return studio.job(job_id)

"""The s2v engine with a tiny random checkpoint on the page: real worker, wire, encoder, player and knobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.browser.apps import App, real_app
from tests.browser.conftest import NewPage
from tests.tiny_checkpoint import write_tiny_checkpoint

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[App]:
    settings = {
        "LIVEAVATAR_CKPT_DIR": str(write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))),
        "OMP_NUM_THREADS": "1",  # tiny convolutions on several threads mostly wait for each other
    }
    with real_app(tmp_path_factory.mktemp("tiny"), settings=settings) as app:
        yield app


def test_from_the_page_to_the_engine_and_back(
    tiny: App, new_page: NewPage, long_voice: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(picture)
    studio = new_page(tiny).open()
    studio.give(picture, long_voice)
    studio.describe("she smiles")
    studio.page.click("#studio-more button")
    studio.page.check("#studio-engine input[value=s2v]")
    studio.generate()
    studio.wait_for_state("running")
    studio.page.locator("#studio-stage .knobs select").first.select_option("2")
    studio.wait_until("job.changes.length")
    studio.wait_for_playback(1.0, timeout_s=240)  # a slow machine must have much of it in hand first
    studio.stop()
    job = studio.job()
    assert (job["engine"], job["size"]) == ("s2v", "64*64")
    assert 0 < job["frames_done"] < job["num_frames"] == 1500
    (change,) = job["changes"]
    assert change["cause"] == "asked"
    assert change["after"].startswith("64x64, 2 steps")
    assert change["first_frame"] % 12 == 0
    assert studio.audio_bytes() > 0

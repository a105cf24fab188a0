"""Everything that cannot be used is answered with a sentence, and what was typed stays."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.browser.apps import App
from tests.browser.conftest import NewPage
from tests.unit.test_intake import write_video

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def bad_files(tmp_path: Path) -> dict[str, Path]:
    """Return files that look right and are not."""
    broken, tiny, silence = tmp_path / "broken.png", tmp_path / "tiny.png", tmp_path / "silence.wav"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    Image.new("RGB", (8, 8)).save(tiny)
    soundfile.write(silence, np.zeros(16_000 * 2, np.int16), 16_000)
    unreadable = tmp_path / "unreadable.wav"
    unreadable.write_bytes(b"this is no sound" * 200)
    return {"broken": broken, "tiny": tiny, "silence": silence, "unreadable": unreadable}


def test_without_a_portrait_the_prompt_stays(paced: App, new_page: NewPage) -> None:
    studio = new_page(paced).open()
    studio.describe("A warm smile")
    studio.generate()
    assert "no portrait" in studio.problem()
    assert studio.page.input_value("#studio-prompt textarea") == "A warm smile"
    assert studio.page.locator("#studio-portrait.la-wrong").is_visible()


def test_without_a_voice(paced: App, new_page: NewPage, portrait: Path) -> None:
    studio = new_page(paced).open()
    studio.page.set_input_files("#studio-portrait input[type=file]", portrait)
    studio.page.wait_for_selector("#studio-portrait .image-frame img")
    studio.generate()
    assert "no voice" in studio.problem()
    assert studio.page.locator("#studio-voice.la-wrong").is_visible()


@pytest.mark.parametrize(("name", "sentence"), [("broken", "cannot be read"), ("tiny", "8 x 8 pixels")])
def test_an_unusable_portrait(
    paced: App, new_page: NewPage, voice: Path, bad_files: dict[str, Path], name: str, sentence: str
) -> None:
    studio = new_page(paced).open()
    studio.page.set_input_files("#studio-portrait input[type=file]", bad_files[name])
    studio.page.wait_for_selector("#studio-portrait .image-frame")
    studio.give_voice(voice)
    studio.generate()
    assert sentence in studio.problem()


def test_a_silent_voice(paced: App, new_page: NewPage, portrait: Path, bad_files: dict[str, Path]) -> None:
    studio = new_page(paced).open()
    studio.give(portrait, bad_files["silence"])
    studio.generate()
    assert "silent" in studio.problem()


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("portrait", "“note.txt” is not a picture."),
        ("voice", "“note.txt” is neither a recording nor a film."),
    ],
)
def test_a_file_of_another_kind_is_refused_at_once(
    paced: App, new_page: NewPage, portrait: Path, tmp_path: Path, field: str, sentence: str
) -> None:
    note = tmp_path / "note.txt"
    note.write_text("this is neither a picture nor a voice")
    studio = new_page(paced).open()
    studio.page.set_input_files(f"#studio-{field} input[type=file]", note)
    assert sentence in studio.problem()
    assert studio.page.locator(f"#studio-{field}.la-wrong").is_visible()
    studio.page.set_input_files("#studio-portrait input[type=file]", portrait)
    studio.page.wait_for_selector("#studio-portrait .image-frame img")
    assert not studio.page.locator("#studio-problem [role=alert]").is_visible()
    assert not studio.page.locator(".toast-body").is_visible(), "Gradio's own message names media types"


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(
    paced: App, new_page: NewPage, tmp_path: Path
) -> None:
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(200_000_001)
    studio = new_page(paced).open()
    studio.page.set_input_files("#studio-voice input[type=file]", large)
    assert "“large.wav” is too large. Files of up to 200 MB are taken." in studio.problem()


def test_on_a_phone_the_sentence_is_in_view(paced: App, new_page: NewPage) -> None:
    studio = new_page(paced, viewport={"width": 390, "height": 664}, is_mobile=True, has_touch=True).open()
    studio.generate()
    studio.problem()
    box = studio.page.locator("#studio-problem [role=alert]").bounding_box()
    assert box is not None
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 664


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_voice_that_cannot_be_read(
    paced: App, new_page: NewPage, portrait: Path, bad_files: dict[str, Path], scheme: str
) -> None:
    studio = new_page(paced, color_scheme=scheme).open()
    studio.page.set_input_files("#studio-portrait input[type=file]", portrait)
    studio.page.wait_for_selector("#studio-portrait .image-frame img")
    studio.page.set_input_files("#studio-voice input[type=file]", bad_files["unreadable"])
    player = studio.page.locator("#studio-voice .standard-player")
    player.wait_for()
    label, box = studio.page.locator("#studio-voice label").bounding_box(), player.bounding_box()
    assert label is not None
    assert box is not None
    assert box["y"] >= label["y"] + label["height"], "the browser's own player leaves the label free"
    assert (player.evaluate("a => getComputedStyle(a).colorScheme") == "dark") is (scheme == "dark")
    studio.generate()
    assert "cannot be read" in studio.problem()


def test_a_film_dropped_on_the_voice_lends_its_sound(
    paced: App, new_page: NewPage, portrait: Path, tmp_path: Path
) -> None:
    studio = new_page(paced).open()
    studio.page.set_input_files("#studio-portrait input[type=file]", portrait)
    studio.page.wait_for_selector("#studio-portrait .image-frame img")
    film = write_video(tmp_path / "film.mp4", with_sound=True)
    dropped = studio.page.evaluate_handle(
        """data => { const bytes = Uint8Array.from(atob(data), character => character.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "film.mp4", {type: "video/mp4"}));
            return transfer; }""",
        base64.b64encode(film.read_bytes()).decode(),
    )
    studio.page.dispatch_event("#studio-voice .audio-container button", "drop", {"dataTransfer": dropped})
    studio.page.wait_for_selector("#studio-voice .component-wrapper")
    studio.generate()
    studio.wait_until("job")
    assert "The voice is the sound track of the video you gave." in [
        note["text"] for note in studio.job()["notes"]
    ]


def test_an_engine_that_is_not_there(paced: App, new_page: NewPage, portrait: Path, voice: Path) -> None:
    studio = new_page(paced).open()
    studio.give(portrait, voice)
    studio.page.click("#studio-more .label-wrap")
    studio.page.locator("#studio-engine label").nth(2).click()
    studio.generate()
    assert "s2v engine is not set up" in studio.problem()


def test_the_size_cards_follow_the_portraits_shape(paced: App, new_page: NewPage, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    upright = tmp_path / "upright.png"
    Image.new("RGB", (300, 500)).save(upright)
    studio = new_page(paced).open()
    cards = studio.page.locator("#studio-size")
    expect(cards).to_contain_text("720×400")
    studio.page.set_input_files("#studio-portrait input[type=file]", upright)
    expect(cards).to_contain_text("400×720")


def test_an_exact_size_overrides_the_card(
    paced: App, new_page: NewPage, portrait: Path, long_voice: Path
) -> None:
    studio = new_page(paced).open()
    studio.page.click("#studio-more button")
    studio.page.click("#studio-exact-size input")
    studio.page.locator("#studio-exact-size [role=option]", has_text="576×320").click()
    studio.make(portrait, long_voice, pace=12)
    studio.wait_until("job?.size")
    assert studio.job()["size"] == "576*320", "across, though the portrait is square"
    studio.stop()


def name_model(page: Page, folder: str, answer: str) -> None:
    """Name the folder until the page gives that answer: what is typed while Gradio still draws the settings is lost."""
    from playwright.sync_api import expect

    for last in (False, False, True):
        page.fill("#studio-ckpt-dir textarea, #studio-ckpt-dir input", folder)
        page.click("#studio-use-model")
        with contextlib.nullcontext() if last else contextlib.suppress(AssertionError):
            expect(page.locator("#studio-model-answer")).to_contain_text(answer)
            return


def test_the_model_of_the_s2v_engine_is_named_and_checked(
    paced: App, new_page: NewPage, tmp_path: Path
) -> None:
    page = new_page(paced).open().page
    page.click("#studio-more button")
    name_model(page, str(tmp_path), "is not a checkpoint folder")
    name_model(page, "", "No model is used.")

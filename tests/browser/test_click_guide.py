"""A portrait in which no face is found: the operator points at it, or lets the whole picture move."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.apps import App, Studio
from tests.browser.conftest import NewPage


def _fail_for_want_of_a_face(studio: Studio, portrait: Path, voice: Path) -> None:
    studio.open()
    studio.give(portrait, voice)
    studio.describe("[no face]")
    studio.generate()
    studio.page.wait_for_selector("#studio-stage .failure")


def _click_at(studio: Studio, x: float, y: float) -> None:
    box = studio.page.locator(".la-clicks .picture").bounding_box()
    assert box is not None
    studio.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def test_clicks_lead_to_a_video(paced: App, new_page: NewPage, portrait: Path, voice: Path) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced)
    _fail_for_want_of_a_face(studio, portrait, voice)
    failed_id = studio.job()["id"]
    studio.page.click(".show-face")
    studio.page.wait_for_function("document.querySelector('.la-clicks img').naturalWidth > 0")
    _click_at(studio, 0.40, 0.70)
    studio.page.click(".la-clicks button:has-text('Undo')")
    for x, y in ((0.44, 0.59), (0.56, 0.59), (0.5, 0.71), (0.44, 0.40), (0.56, 0.40)):
        _click_at(studio, x, y)
    expect(studio.page.locator(".la-clicks .marker")).to_have_count(5)
    studio.page.click(".la-clicks .primary")
    studio.wait_for_playback()
    assert studio.job()["id"] != failed_id
    studio.page.locator(f"#studio-videos [data-job='{failed_id}']").wait_for(state="detached")


def test_the_guide_works_with_the_keyboard(
    paced: App, new_page: NewPage, portrait: Path, voice: Path
) -> None:
    studio = new_page(paced)
    _fail_for_want_of_a_face(studio, portrait, voice)
    keyboard = studio.page.keyboard
    studio.page.focus(".show-face")
    keyboard.press("Enter")
    studio.page.wait_for_selector(".la-clicks")
    keyboard.press("Escape")
    studio.page.wait_for_selector("#studio-stage .failure")
    keyboard.press("Enter")  # the focus is back on the button
    for keys in (("ArrowLeft",), ("ArrowRight", "ArrowRight"), ("ArrowDown", "ArrowDown")):
        for key in keys:
            keyboard.press(key)
        keyboard.press("Enter")
    skip = studio.page.locator(".la-clicks button:has-text('Skip')")
    skip.click()
    skip.click()
    with studio.page.expect_request("**/again") as asked:
        studio.page.click(".la-clicks .primary")
    studio.wait_for_playback()
    assert asked.value.post_data_json == {
        "clicks": {
            "mouth_left": pytest.approx([0.49, 0.55]),
            "mouth_right": pytest.approx([0.51, 0.55]),
            "chin": pytest.approx([0.51, 0.57]),
            "eyes": [],
        }
    }


def test_the_whole_picture_can_move_instead(
    paced: App, new_page: NewPage, portrait: Path, voice: Path
) -> None:
    studio = new_page(paced)
    _fail_for_want_of_a_face(studio, portrait, voice)
    with studio.page.expect_request("**/again") as asked:
        studio.page.click(".whole-picture")
    studio.wait_for_playback()
    assert asked.value.post_data_json == {"whole_picture": True}


def test_the_real_engine_asks_for_clicks_and_uses_them(
    real: App, new_page: NewPage, plain_picture: Path, voice: Path
) -> None:
    studio = new_page(real).open()
    studio.give(plain_picture, voice)
    studio.generate()
    studio.page.wait_for_selector("#studio-stage .show-face", timeout=120_000)
    assert studio.job()["diagnosis"]["code"] == "no_face"
    studio.page.click(".show-face")
    studio.page.wait_for_function("document.querySelector('.la-clicks img').naturalWidth > 0")
    for x, y in ((0.42, 0.60), (0.58, 0.60), (0.5, 0.75)):
        _click_at(studio, x, y)
    skip = studio.page.locator(".la-clicks button:has-text('Skip')")
    skip.click()
    skip.click()
    studio.page.click(".la-clicks .primary")
    studio.wait_for_playback()
    studio.wait_for_state("finished")
    assert studio.job()["frames_done"] == studio.job()["num_frames"] == 200

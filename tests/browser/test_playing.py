"""A video plays while it is made, survives a reload, can be stopped, and several can be watched at once."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.apps import App
from tests.browser.conftest import NewPage
from ui.samples import load_samples

if TYPE_CHECKING:
    from playwright.sync_api import Route

# Of every start of the player: how many seconds of video lay ahead, and how many it wanted.
NOTE_STARTS = """() => { const {player} = window.studio.stage;
    player.addEventListener("phase", () => { if (player.phase === "playing")
        (window.starts ??= []).push([player.ahead(), player.neededAhead()]); }); }"""

needs_samples = pytest.mark.skipif(
    not load_samples().portraits, reason="there are no sample portraits in assets/samples"
)


@needs_samples
def test_one_click_on_try_it_makes_and_plays_a_video(real: App, new_page: NewPage) -> None:
    from playwright.sync_api import expect

    studio = new_page(real).open()
    studio.page.locator(".la-tries .try").first.click()
    studio.wait_for_playback(2.0)
    assert studio.audio_bytes() > 0
    studio.wait_for_state("finished")
    assert studio.job()["frames_done"] == studio.job()["num_frames"]
    facts = studio.page.locator("#studio-stage .facts")
    expect(facts, "a bare rate would read as the rate at which it plays").to_contain_text("made at")
    assert studio.page.locator("#studio-voice .component-wrapper").is_visible(), (
        "the voice is filled in as well"
    )


@needs_samples
def test_a_click_is_answered_before_the_app_is(paced: App, new_page: NewPage) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced)
    studio.page.add_init_script(
        """const ask = window.fetch;
        window.fetch = async (url, ...rest) => {
            if (String(url.url ?? url).includes("/run/")) await new Promise((go) => (window.letGo = go));
            return ask(url, ...rest);
        };"""
    )
    studio.open()
    studio.page.locator(".la-tries .try").first.click()
    expect(studio.page.locator("#studio-stage .waiting b")).to_have_text("Sending…")
    expect(studio.page.locator("#studio-generate")).to_have_attribute("aria-busy", "true")
    studio.page.wait_for_function("() => Boolean(window.letGo)")
    studio.page.evaluate("() => window.letGo()")
    studio.wait_for_playback()
    expect(studio.page.locator("#studio-generate")).to_have_attribute("aria-busy", "false")


@needs_samples
def test_one_click_on_a_sample_fills_portrait_and_voice(real: App, new_page: NewPage) -> None:
    studio = new_page(real).open()
    face = studio.page.locator("#studio-samples .face").first
    assert "voice" in (face.locator("img").get_attribute("alt") or "")
    face.click()
    studio.page.wait_for_selector("#studio-portrait .image-frame img")
    studio.page.wait_for_selector("#studio-voice .component-wrapper")


def test_the_real_engine_plays_live_and_the_file_can_be_downloaded(
    real: App, new_page: NewPage, real_portrait: Path, voice: Path
) -> None:
    studio = new_page(real).open()
    studio.give(real_portrait, voice)
    studio.generate()
    studio.wait_for_playback()
    studio.wait_for_state("finished")
    link = studio.page.locator("#studio-stage .download").get_attribute("href")
    assert link is not None
    with urllib.request.urlopen(link) as response:
        assert "attachment" in response.headers["content-disposition"]
        assert response.read()[4:8] == b"ftyp"


def test_a_photo_and_a_recording_made_on_the_page_become_a_video(paced: App, new_page: NewPage) -> None:
    studio = new_page(paced, permissions=["camera", "microphone"]).open()
    page = studio.page
    page.click("#studio-portrait [aria-label='Capture from camera']")
    page.click("#studio-portrait button:has-text('Webcam')")
    page.wait_for_function("document.querySelector('#studio-portrait video')?.videoWidth > 0")
    page.click("#studio-portrait .photo-capture")
    page.wait_for_selector("#studio-portrait .image-frame img")
    page.click("#studio-voice [aria-label='Record audio']")
    page.click("#studio-voice .record-button")
    page.locator("#studio-voice time").filter(has_text=re.compile("0:0[2-9]|0:[1-5]")).wait_for()
    with page.expect_response(lambda response: "/upload" in response.url):
        page.click("#studio-voice .stop-button")
    page.wait_for_selector("#studio-voice .component-wrapper")
    studio.generate()
    studio.wait_for_state("finished")
    assert studio.job()["audio_seconds"] > 1
    assert studio.job()["notes"] == []


def test_reload_in_the_middle_finds_the_job_again(
    paced: App, new_page: NewPage, portrait: Path, long_voice: Path
) -> None:
    studio = new_page(paced).open()
    studio.make(portrait, long_voice, pace=30)
    studio.wait_for_playback()
    job_id = studio.job()["id"]
    assert f"job={job_id}" in studio.page.url
    studio.page.reload()
    studio.wait_for_start()
    studio.wait_until("job?.active")
    assert studio.job()["id"] == job_id
    studio.wait_for_playback()
    studio.stop()


def test_stop_keeps_a_part_that_plays(
    paced: App, new_page: NewPage, portrait: Path, long_voice: Path
) -> None:
    studio = new_page(paced).open()
    studio.make(portrait, long_voice, pace=30)
    studio.wait_for_playback(1.0)
    studio.stop()
    assert 0 < studio.job()["frames_done"] < studio.job()["num_frames"]
    studio.page.click("#studio-stage .again")
    studio.wait_until("player.phase === 'file' && video.currentTime > 0.3")


def test_a_stop_that_does_not_get_through_says_so_and_can_be_pressed_again(
    paced: App, new_page: NewPage, portrait: Path, long_voice: Path
) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced).open()
    studio.make(portrait, long_voice, pace=30)
    studio.wait_for_playback(1.0)
    studio.page.route("**/stop", lambda route: route.abort())
    studio.page.click("#studio-stage .stop")
    expect(studio.page.locator("#studio-problem")).to_contain_text("did not answer")
    studio.page.unroute("**/stop")
    studio.stop()


def test_a_slow_engine_counts_down_first_and_starts_with_enough_in_hand(
    paced: App, new_page: NewPage, portrait: Path, voice: Path
) -> None:
    studio = new_page(paced).open()
    studio.page.evaluate(NOTE_STARTS)
    studio.make(portrait, voice, pace=14)
    waiting = studio.page.locator("#studio-stage .waiting p")
    waiting.filter(has_text=re.compile(r"Plays in \d+ s")).wait_for()
    studio.wait_until("video.ended", timeout_s=120)
    starts = studio.page.evaluate("window.starts")
    assert all(ahead >= needed for ahead, needed in starts)
    # Before the engine's pace is known, it counts as fast: then the first start is after half a second.
    assert max(ahead for ahead, _ in starts) > 1.0, "it waited for more than a fast engine needs"


def test_the_forecast_of_the_plan_counts_until_the_pace_is_known(
    paced: App, new_page: NewPage, portrait: Path, voice: Path
) -> None:
    studio = new_page(paced)

    def never_measured(route: Route) -> None:
        state: dict[str, Any] = route.fetch().json()
        if state["job"]:
            state["job"] |= {"fps": 0, "predicted_fps": 20}
        route.fulfill(body=json.dumps(state), content_type="application/json")

    studio.page.route("**/api/state*", never_measured)
    studio.open()
    studio.page.evaluate(NOTE_STARTS)
    studio.make(portrait, voice, pace=30)
    studio.wait_until("window.starts")
    # Eight seconds at four fifths of real time: a fifth of it and some more must be there first.
    assert studio.page.evaluate("window.starts[0][0]") > 1.8


def test_what_the_engine_does_before_a_video_is_told(
    paced: App, new_page: NewPage, portrait: Path, voice: Path
) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced)

    def preparing(route: Route) -> None:
        state: dict[str, Any] = route.fetch().json()
        state["engine"]["loading"] = "compiling"
        if state["job"]:
            state["job"] |= {"state": "loading", "active": True, "frames_done": 0}
        route.fulfill(json=state)

    studio.page.route("**/api/state*", preparing)
    studio.page.route("**/media*", lambda route: route.abort())
    studio.open()
    studio.give(portrait, voice)
    studio.generate()
    waiting = studio.page.locator("#studio-stage .waiting")
    expect(waiting.locator("b")).to_have_text("Preparing the graphics card")
    expect(waiting.locator("p")).to_have_text("This takes minutes the first time, and seconds later.")


def test_two_tabs_work_at_the_same_time(paced: App, new_page: NewPage, portrait: Path, voice: Path) -> None:
    first, second = new_page(paced).open(), new_page(paced).open()
    for studio in (first, second):
        studio.give(portrait, voice)
        studio.describe("pace=60")
    first.generate()
    first.wait_until("job")
    second.generate()
    second.wait_until("job")
    assert first.job()["id"] != second.job()["id"]
    for studio in (first, second):
        studio.wait_for_playback()
        studio.wait_for_state("finished")


def test_without_leave_for_sound_it_plays_muted_and_offers_the_sound(
    paced: App, new_page: NewPage, portrait: Path, long_voice: Path
) -> None:

    studio = new_page(paced)
    studio.page.add_init_script(
        """const play = HTMLMediaElement.prototype.play;
        HTMLMediaElement.prototype.play = function () {
            return this.muted ? play.call(this) : Promise.reject(new DOMException("", "NotAllowedError"));
        };"""
    )
    studio.open()
    studio.make(portrait, long_voice, pace=60)
    studio.wait_for_playback()
    assert studio.page.evaluate("window.studio.stage.video.muted")
    studio.page.click("#studio-stage .sound.primary")
    studio.wait_until("!video.muted && !player.isSoundRefused")
    studio.page.click("#studio-stage .stop")


def test_the_sound_of_a_video_that_is_being_made_can_be_turned_off(
    paced: App, new_page: NewPage, portrait: Path, long_voice: Path
) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced).open()
    studio.make(portrait, long_voice, pace=30)
    studio.wait_for_playback()
    sound = studio.page.locator("#studio-stage .sound")
    expect(sound).to_have_text("Mute")
    sound.click()
    studio.wait_until("video.muted")
    expect(sound).to_have_text("Turn the sound on")
    studio.page.click("#studio-stage .stop")
    studio.wait_for_state("cancelled")
    studio.page.click("#studio-stage .again")
    studio.wait_until("player.phase === 'file' && video.currentTime > 0.3")
    assert studio.page.evaluate("window.studio.stage.video.muted"), "it stays off until it is turned on"
    expect(sound).to_be_hidden()

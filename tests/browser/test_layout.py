"""The page fits, speaks the visitor's language, and asks nobody else for anything."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.apps import App
from tests.browser.conftest import NewPage

if TYPE_CHECKING:
    from playwright.sync_api import Route


def test_no_requests_leave_the_machine(paced: App, new_page: NewPage, portrait: Path, voice: Path) -> None:
    studio = new_page(paced)
    asked: list[str] = []
    studio.page.on("request", lambda request: asked.append(request.url))
    studio.open()
    studio.make(portrait, voice, pace=200)
    studio.wait_for_playback()
    own = (paced.url, "data:", "blob:")
    assert asked
    assert [url for url in asked if not url.startswith(own)] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(paced: App, new_page: NewPage, scheme: str) -> None:
    viewport = {"width": 390, "height": 844}
    studio = new_page(paced, viewport=viewport, color_scheme=scheme, is_mobile=True, has_touch=True).open()
    assert studio.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_nothing_jumps_while_the_page_is_built(paced: App, new_page: NewPage) -> None:
    studio = new_page(paced, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    studio.page.add_init_script(
        """window.shifts = [];
        window.watcher = new PerformanceObserver((list) => window.shifts.push(...list.getEntries()));
        window.watcher.observe({type: "layout-shift", buffered: true});"""
    )
    studio.open()
    shifted = studio.page.evaluate(
        "[...shifts, ...watcher.takeRecords()].reduce((sum, {value}) => sum + value, 0)"
    )
    assert shifted < 0.1, "what browsers call good"


def test_without_its_scripts_the_page_appears_all_the_same(paced: App, new_page: NewPage) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced)
    studio.page.route("**/studio/js/main.js", lambda route: route.abort())
    studio.page.goto(studio.url)
    expect(studio.page.locator("#studio-generate")).to_be_visible(timeout=60_000)


def test_dark_mode_is_dark(paced: App, new_page: NewPage) -> None:
    studio = new_page(paced, color_scheme="dark").open()
    colour = studio.page.evaluate(
        "getComputedStyle(document.querySelector('#studio-machine')).backgroundColor"
    )
    red, green, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    assert max(red, green, blue) < 60


def test_nothing_lies_below_the_generate_button(
    paced: App, new_page: NewPage, portrait: Path, voice: Path
) -> None:
    studio = new_page(paced).open()
    studio.give(portrait, voice)
    names = ("#studio-portrait", "#studio-voice", "#studio-prompt", "#studio-size")
    boxes = [studio.page.locator(name).bounding_box() for name in (*names, "#studio-generate")]
    for upper, lower in itertools.pairwise(boxes):
        assert upper is not None
        assert lower is not None
        assert upper["y"] + upper["height"] <= lower["y"] + 1
    assert boxes[-1] is not None
    assert boxes[-1]["y"] + boxes[-1]["height"] <= 900, "the button is in view"


def test_on_a_laptop_the_sizes_are_in_view_from_the_first(paced: App, new_page: NewPage) -> None:
    page = new_page(paced, viewport={"width": 1280, "height": 800}).open().page
    sizes, button = (page.locator(name).bounding_box() for name in ("#studio-size", "#studio-generate"))
    assert sizes is not None
    assert button is not None
    assert sizes["y"] + sizes["height"] <= button["y"]


def test_on_a_phone_what_the_engine_does_leaves_room_for_the_name(paced: App, new_page: NewPage) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced, viewport={"width": 390, "height": 844})

    def preparing(route: Route) -> None:
        state = route.fetch().json()
        state["engine"]["loading"] = "compiling"
        route.fulfill(json=state)

    studio.page.route("**/api/state*", preparing)
    studio.open()
    expect(studio.page.locator("#studio-top .pill")).to_contain_text("Preparing the graphics card")
    top, pill = (studio.page.locator(name).bounding_box() for name in ("#studio-top", "#studio-top .pill"))
    assert top is not None
    assert pill is not None
    assert pill["height"] < top["height"]
    assert studio.page.evaluate(
        """() => { const name = document.querySelector("#studio-top h1");
            return name.scrollWidth <= name.clientWidth && document.documentElement.scrollWidth <= 390; }"""
    )


def test_where_else_a_picture_or_voice_may_come_from_is_written(paced: App, new_page: NewPage) -> None:
    page = new_page(paced).open().page
    buttons = page.locator("#studio-fields .source-selection button")
    buttons.nth(4).wait_for()
    words = buttons.evaluate_all(
        "buttons => buttons.map(button => getComputedStyle(button, '::after').content)"
    )
    assert words == ['"File"', '"Camera"', '"Paste"', '"File"', '"Record"']


@pytest.mark.parametrize(
    ("locale", "button", "title"),
    [("en-GB", "Generate video", "My videos"), ("zh-CN", "生成视频", "我的视频")],
)
def test_languages(paced: App, new_page: NewPage, locale: str, button: str, title: str) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced, locale=locale).open()
    expect(studio.page.locator("#studio-generate")).to_have_text(button)
    expect(studio.page.locator("#studio-videos h2")).to_have_text(title)


def test_a_machine_without_a_graphics_card_is_told_so(real: App, new_page: NewPage) -> None:
    studio = new_page(real).open()
    if studio.page.evaluate("fetch('api/state').then(r => r.json()).then(s => s.hardware.gpus.length)"):
        pytest.skip("this machine has a graphics card")
    text = studio.page.locator("#studio-machine").inner_text()
    assert "No graphics card" in text
    assert "Main memory" in text


def test_each_graphics_card_has_a_bar(paced: App, new_page: NewPage) -> None:
    meters = new_page(paced).open().page.locator("#studio-machine [role=meter]")
    assert meters.count() == 6, "five cards and the machine's own memory"
    assert meters.nth(3).get_attribute("aria-valuetext") == "3.0 of 80.0 GB free"


def test_every_button_has_a_name(paced: App, new_page: NewPage) -> None:
    studio = new_page(paced).open()
    nameless = studio.page.evaluate(
        """[...document.querySelectorAll('[id^=studio-] button')].filter(button => button.checkVisibility()
            && !button.innerText.trim() && !button.getAttribute('aria-label')
            && ![...button.querySelectorAll('img')].some(image => image.alt)).map(button => button.outerHTML)"""
    )
    assert nameless == []

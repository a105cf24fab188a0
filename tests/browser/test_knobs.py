"""Steps and size of a running video of the large engine are changed on the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.apps import App
from tests.browser.conftest import NewPage

if TYPE_CHECKING:
    from playwright.sync_api import Route


def test_what_is_chosen_is_asked_for_and_answered(
    paced: App, new_page: NewPage, portrait: Path, long_voice: Path
) -> None:
    """The engine here is another one: the page is told that it is s2v, and the app's refusal is shown."""
    studio = new_page(paced)
    asked = []

    def as_large_engine(route: Route) -> None:
        state = route.fetch().json()
        if state["job"]:
            state["job"]["engine"] = "s2v"
        route.fulfill(json=state)

    def adjust(route: Route) -> None:
        asked.append(json.loads(route.request.post_data or ""))
        route.continue_()

    studio.open()
    studio.make(portrait, long_voice, pace=12)
    studio.wait_for_state("running")
    knobs = studio.page.locator("#studio-stage .knobs")
    assert not knobs.is_visible(), "the built-in engine has none"
    studio.page.route("**/api/state*", as_large_engine)
    studio.page.route("**/adjust", adjust)
    knobs.locator("select").first.select_option("3")
    knobs.locator(".answer", has_text="This video cannot be changed.").wait_for()
    with studio.page.expect_response("**/adjust"):
        knobs.locator("select").last.select_option("576*320")
    assert asked == [{"steps": 3}, {"size": "576*320"}]
    studio.stop()

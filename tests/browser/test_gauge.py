"""The gauge draws recorded machines of one, five and eight graphics cards, and says what it cannot know."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from liveavatar.core.plan import ExecutionPlan
from liveavatar.monitoring.hardware import HardwareSnapshot
from liveavatar.service.gauge import card_gauges
from tests.browser.apps import App, Studio
from tests.browser.conftest import NewPage
from tests.fakes.recorded_machine import Machine, trace
from tests.fakes.replayed_nvml import FIELDS
from ui.state import machine_json

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Route

PLAN = ExecutionPlan(engine="portrait", width=720, height=400)


class Shown:
    """A page that is told of another machine than the app's."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.more: dict[str, Any] = {}
        self._hardware: dict[str, Any] = {}
        studio.page.route("**/api/state*", self._answer)

    def show(self, machine: HardwareSnapshot) -> Locator:
        """Show this machine from now on; return the panel."""
        self._hardware = machine_json(machine, card_gauges(machine, [], PLAN))
        if self.studio.page.url == "about:blank":
            self.studio.open()
        return self.studio.page.locator("#studio-machine")

    def _answer(self, route: Route) -> None:
        state: dict[str, Any] = route.fetch().json()
        told = state | {"hardware": self._hardware} | self.more
        route.fulfill(body=json.dumps(told), content_type="application/json")


def no_sideways_scrolling(studio: Studio) -> bool:
    return bool(studio.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_recorded_machines(paced: App, new_page: NewPage) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced, viewport={"width": 390, "height": 844})
    shown = Shown(studio)
    for name, until_s, sentences in (
        ("one_gpu", 18, ["Other programs use 20.6 GB on GPU 1 (python3 20.6 GB)."]),
        ("five_gpus", 14, ["Other programs use 46.0 GB on GPU 4 (ollama 46.0 GB)."]),
        (
            "eight_gpus",
            12,
            ["mostly wait for data from each other", "GPU 7 slows down because it is too hot (61 °C)."],
        ),
    ):
        machine = Machine(trace(name)).play(until_s=until_s)
        panel = shown.show(machine)
        gauges = panel.locator(".card-gauge")
        expect(gauges).to_have_count(len(machine.gpus))
        for sentence in sentences:
            expect(panel.locator(".warnings")).to_contain_text(sentence)
        for gauge, gpu in zip(gauges.all(), machine.gpus, strict=True):
            shares = gauge.locator(".track i").evaluate_all(
                "parts => parts.map(part => parseFloat(part.style.width))"
            )
            assert sum(shares) == pytest.approx(100 * gpu.used_bytes / gpu.total_bytes, abs=0.1)
            assert gauge.locator(".spark path").get_attribute("d"), "the last two minutes are drawn"
        expect(gauges.first.locator(".detail")).to_contain_text(f"{machine.gpus[0].temperature}\u00a0°C")
        assert no_sideways_scrolling(studio)


def test_what_is_not_known_is_said_and_not_invented(paced: App, new_page: NewPage) -> None:
    from playwright.sync_api import expect

    shown = Shown(new_page(paced))
    panel = shown.show(Machine(trace("five_gpus"), unavailable=FIELDS).play(until_s=2))
    expect(panel.locator(".parts").first).to_have_text("In use 31.0 GB")
    expect(panel.locator(".unknowns")).to_contain_text("GPU 1 to 5 do not report utilisation")
    assert "null" not in panel.inner_text()
    assert "NaN" not in panel.inner_text()
    machine = Machine(trace("five_gpus"))
    machine.play(until_s=2)
    machine.nvml.dies()
    machine.monitor.read()
    panel = shown.show(machine.look())
    expect(panel.locator(".card-gauge")).to_have_count(0)
    expect(panel.locator(".warnings")).to_contain_text("The graphics driver stopped answering")
    badge = panel.locator(".la-tag")
    expect(badge, "it is not called a machine without a card").not_to_have_text("No graphics card")


def test_the_running_video_shows_items_and_what_it_needs(paced: App, new_page: NewPage) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced).open()
    first = studio.page.locator("#studio-machine .card-gauge").first
    expect(first.locator(".needs")).to_contain_text("video\u00a0needs")
    # Other programs take and free memory all the time: the page is held to one reading of this machine.
    shown = Shown(studio)
    shown.more = {"hardware": httpx.get(f"{paced.url}/api/state").json()["hardware"]}
    gpu = shown.more["hardware"]["gpus"][0]
    needed = 100 * (gpu["other_bytes"] + gpu["needed_bytes"]) / gpu["total_bytes"]
    studio.page.wait_for_function(
        "needed => Math.abs(parseFloat("
        "document.querySelector('#studio-machine .card-gauge .need').style.left) - needed) < 0.1",
        arg=needed,
    )


def test_size_cards_say_what_fits(paced: App, new_page: NewPage) -> None:
    from playwright.sync_api import expect

    shown = Shown(new_page(paced))
    shown.more = {
        "sizes": {
            "small": {"fits": True, "made": [384, 256], "fps": 40.0},
            "standard": {"fits": False, "made": [576, 320], "fps": 7.8},
            "large": {"fits": False, "made": None, "fps": None},
        }
    }
    shown.show(Machine(trace("one_gpu")).play(until_s=1))
    marks = shown.studio.page.locator("#studio-size .fit")
    expect(marks).to_have_text(["real time", "→ 576×320, 3.2× slower", "no room"])
    expect(marks.nth(1)).to_have_attribute(
        "title", re.compile(r"About 7\.8 pictures per second are expected")
    )
    expect(shown.studio.page.locator("#studio-machine .la-tag")).to_have_text("Room for up to 384×256")


def test_the_time_of_a_block_stands_beside_its_target(paced: App, new_page: NewPage) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced)
    shown = Shown(studio)
    engine = {"state": "busy", "name": "s2v", "rss_bytes": 0, "loading": None, "diagnosis": None}
    shown.more = {"engine": {**engine, "block_s": 0.739, "block_target_s": 0.48}}
    panel = shown.show(Machine(trace("one_gpu")).play(until_s=1))
    told = re.compile(r"12 frames take 0\.74 s \(0\.48 s is real time\)".replace(" ", r"\s"))
    expect(panel).to_contain_text(told)

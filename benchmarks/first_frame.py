"""Measure start to page, and click to first painted frame with a warm engine: `python -m benchmarks.first_frame`.

Starts the app, opens the page, gives a portrait and a voice, and presses Generate several times. Prints one JSON
object; the times of a round are in milliseconds and begin with the click, those of the start are in seconds and begin
with `python app.py`. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.portrait_acceptance import machine
from tests.browser.apps import Studio, real_app
from ui.samples import load_samples

_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]

# Each mark is set once, in milliseconds after the click.
_WATCH = """() => {
    const {stage} = window.studio;
    const marks = window.marks = {};
    const mark = name => { marks[name] ??= performance.now() - window.studio.clickedAt; };
    const submitted = window.studio.submitted;
    window.studio.submitted = function (ticket) { mark("submitted"); return submitted.call(this, ticket); };
    const append = SourceBuffer.prototype.appendBuffer;
    SourceBuffer.prototype.appendBuffer = function (data) {
        if (marks.first_bytes === undefined) {
            mark("first_bytes");
            stage.video.requestVideoFrameCallback(() => mark("first_frame"));
        }
        return append.call(this, data);
    };
}"""


def measure(portrait: Path, voice: Path, *, size: int, rounds: int) -> dict[str, Any]:
    """Return the times of the start and of each round. `size` is the index of the card that is chosen."""
    with tempfile.TemporaryDirectory() as data_dir, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or "/usr/bin/chromium", args=_ARGUMENTS
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        started = time.monotonic()
        with real_app(Path(data_dir)) as app:
            page_served_s = time.monotonic() - started
            studio = Studio(page, app.url).open()
            page_drawn_s = time.monotonic() - started
            page.locator("#studio-top .pill:has-text('Ready')").wait_for(timeout=120_000)
            engine_ready_s = time.monotonic() - started
            studio.give(portrait, voice)
            page.locator("#studio-size label").nth(size).click()
            page.evaluate(_WATCH)
            rows = [_round(studio) for _ in range(rounds)]
        browser.close()
    return {
        "page_served_s": round(page_served_s, 2),
        "page_drawn_s": round(page_drawn_s, 2),
        "engine_ready_s": round(engine_ready_s, 2),
        "first_frame_ms_median": statistics.median(row["first_frame"] for row in rows),
        "rounds": rows,
    }


def _round(studio: Studio) -> dict[str, float]:
    studio.page.evaluate("for (const name of Object.keys(window.marks)) delete window.marks[name]")
    studio.generate()
    studio.page.wait_for_function("window.marks.first_frame > 0", timeout=120_000)
    marks: dict[str, float] = studio.page.evaluate("window.marks")
    studio.wait_until("job && !job.active", timeout_s=300)
    assert studio.job()["state"] == "finished", studio.job()
    marks["frames_per_second"] = studio.job()["fps"]
    studio.page.wait_for_timeout(1000)
    return {name: round(value, 1) for name, value in marks.items()}


def main() -> None:
    """Print the measurements as JSON."""
    samples = load_samples()
    parser = argparse.ArgumentParser(description="click to first painted frame")
    parser.add_argument(
        "--portrait", type=Path, default=samples.portraits[0].path if samples.portraits else None
    )
    parser.add_argument("--voice", type=Path, default=samples.voices[0].path if samples.voices else None)
    parser.add_argument("--size", choices=["auto", "small", "standard", "large"], default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if not given.portrait or not given.voice:
        parser.error("there are no samples; give --portrait and --voice")
    size = ["auto", "small", "standard", "large"].index(given.size)
    report = {
        "machine": machine(),
        "portrait": given.portrait.name,
        "voice": given.voice.name,
        "size": given.size,
        **measure(given.portrait, given.voice, size=size, rounds=given.rounds),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

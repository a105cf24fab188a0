"""Start the app in a process of its own, and drive its page."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tests.free_port import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
_START_S = 120.0  # for a machine that has much else to do


_WHAT_IS = """() => { const {stage} = window.studio ?? {}; if (!stage) return "no stage";
    const {player, video, job} = stage;
    return JSON.stringify({phase: player.phase, stats: player.stats, estimate: player.estimate, ahead: player.ahead(),
        needed: player.neededAhead(), opened: stage.opened, at: video.currentTime, paused: video.paused,
        ready: video.readyState, network: video.networkState, error: video.error?.message, hidden: document.hidden,
        problem: document.querySelector("#studio-problem")?.innerText, job}); }"""


@dataclass(frozen=True, kw_only=True)
class App:
    """A running app."""

    url: str
    data_dir: Path


@contextlib.contextmanager
def real_app(
    data_dir: Path, *, port: int | None = None, settings: Mapping[str, str] = MappingProxyType({})
) -> Iterator[App]:
    """Run `python app.py` with the real engines; `settings` are environment variables."""
    port = port or free_port()
    environment = (
        os.environ | settings | {"LIVEAVATAR_DATA_DIR": str(data_dir), "GRADIO_SERVER_PORT": str(port)}
    )
    with _running([sys.executable, "app.py"], environment, port):
        yield App(url=f"http://127.0.0.1:{port}", data_dir=data_dir)


@contextlib.contextmanager
def paced_app(data_dir: Path, *flags: str, port: int | None = None) -> Iterator[App]:
    """Run the same page and app with an engine whose speed the prompt decides."""
    port = port or free_port()
    command = [sys.executable, "-m", "tests.fakes.serve_page", str(port), str(data_dir), *flags]
    with _running(command, dict(os.environ), port):
        yield App(url=f"http://127.0.0.1:{port}", data_dir=data_dir)


class Studio:
    """The page as a person uses it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def open(self) -> Studio:
        """Load the page and wait until its own parts are there."""
        self.page.goto(self.url)
        self.wait_for_start()
        return self

    def wait_for_start(self) -> None:
        """Wait until the scripts have drawn their first answer."""
        self.page.wait_for_selector("body.la-started")

    def give(self, portrait: Path, voice: Path) -> None:
        """Upload both files."""
        self.page.set_input_files("#studio-portrait input[type=file]", portrait)
        self.page.wait_for_selector("#studio-portrait .image-frame img")
        self.give_voice(voice)

    def give_voice(self, voice: Path) -> None:
        """Upload the voice."""
        self.page.set_input_files("#studio-voice input[type=file]", voice)
        self.page.wait_for_selector("#studio-voice .component-wrapper")

    def describe(self, prompt: str) -> None:
        """Fill in the prompt."""
        self.page.fill("#studio-prompt textarea", prompt)

    def generate(self) -> None:
        """Press the button."""
        self.page.click("#studio-generate")

    def make(self, portrait: Path, voice: Path, *, pace: int) -> None:
        """Have the paced engine make a video of so many pictures per second."""
        self.give(portrait, voice)
        self.describe(f"pace={pace}")
        self.generate()

    def stop(self) -> None:
        """Press the button beside the video, and wait until it is stopped."""
        self.page.click("#studio-stage .stop")
        self.wait_for_state("cancelled")

    def job(self) -> dict[str, Any]:
        """Return the job on the stage as the page knows it."""
        job: dict[str, Any] = self.page.evaluate("window.studio.stage.job")
        return job

    def wait_until(self, condition: str, *, timeout_s: float = 60) -> None:
        """Wait for a condition in terms of stage, player, video and job. Fails with what they are instead."""
        from playwright.sync_api import Error

        try:
            self.page.wait_for_function(
                "(() => { const {stage} = window.studio ?? {}; if (!stage) return false;"
                f"const {{player, video, job}} = stage; return {condition}; }})()",
                timeout=1000 * timeout_s,
            )
        except Error as error:
            raise AssertionError(
                f"not within {timeout_s} s: {condition}\n{self.page.evaluate(_WHAT_IS)}"
            ) from error

    def wait_for_state(self, state: str, *, timeout_s: float = 120) -> None:
        """Wait for the job on the stage to reach a state."""
        self.wait_until(f"job?.state === '{state}'", timeout_s=timeout_s)

    def wait_for_playback(self, seconds: float = 0.5, *, timeout_s: float = 90) -> None:
        """Wait until the video has advanced this far."""
        self.wait_until(f"video.currentTime > {seconds}", timeout_s=timeout_s)

    def audio_bytes(self) -> int:
        """Return how many bytes of sound the browser has decoded."""
        return int(self.page.evaluate("window.studio.stage.video.webkitAudioDecodedByteCount"))

    def problem(self) -> str:
        """Wait for the sentence above the button and return it."""
        return self.page.locator("#studio-problem [role=alert]").inner_text()


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_S
        while not _answers(f"http://127.0.0.1:{port}/healthz"):
            assert process.poll() is None, f"{command} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{command} did not serve within {_START_S:.0f} s"
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False

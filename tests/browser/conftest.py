"""Browser tests: the real page in Chromium, on the real app."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

from tests.browser.apps import App, Studio, paced_app, real_app
from ui.samples import load_samples

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
    "--disable-background-networking",
    "--disable-component-update",
    "--use-fake-device-for-media-stream",  # a camera with a moving picture, a microphone that beeps
    "--use-fake-ui-for-media-stream",
]
_PATIENCE_MS = 60_000  # a machine may have much else to do
NewPage = Callable[..., Studio]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs a browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"chromium is not installed ({CHROMIUM})")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    sync_api.expect.set_options(timeout=_PATIENCE_MS)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[App]:
    with real_app(tmp_path_factory.mktemp("real")) as app:
        yield app


@pytest.fixture(scope="session")
def paced(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[App]:
    with paced_app(tmp_path_factory.mktemp("paced"), "five_gpus") as app:
        yield app


@pytest.fixture
def new_page(browser: Browser) -> Iterator[NewPage]:
    """Open pages, each in a browser profile of its own; fail the test when a script of a page throws."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_page(app: App, **options: Any) -> Studio:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        context = browser.new_context(**options)
        context.set_default_timeout(_PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        return Studio(page, app.url)

    yield open_page
    for context in contexts:
        for page in context.pages:
            page.unroute_all(behavior="ignoreErrors")  # one in flight would fail the next test
        context.close()
    assert not errors, f"scripts failed: {errors}"


@pytest.fixture(scope="session")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of a plain drawn face."""
    image = Image.new("RGB", (640, 640), (120, 140, 170))
    draw = ImageDraw.Draw(image)
    draw.ellipse((200, 120, 440, 460), fill=(226, 182, 150))
    draw.ellipse((265, 250, 295, 270), fill=(40, 30, 30))
    draw.ellipse((345, 250, 375, 270), fill=(40, 30, 30))
    draw.line((285, 380, 355, 380), fill=(150, 60, 60), width=8)
    path = tmp_path_factory.mktemp("inputs") / "portrait.png"
    image.save(path)
    return path


@pytest.fixture(scope="session")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds of a humming voice."""
    return _hum(tmp_path_factory.mktemp("inputs") / "voice.wav", seconds=8)


@pytest.fixture(scope="session")
def long_voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of a humming voice: for what must happen while the video is made, and stops it then."""
    return _hum(tmp_path_factory.mktemp("inputs") / "long_voice.wav", seconds=60)


@pytest.fixture(scope="session")
def plain_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture without any face."""
    path = tmp_path_factory.mktemp("inputs") / "plain.png"
    Image.linear_gradient("L").resize((640, 480)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="session")
def real_portrait() -> Path:
    """A picture with a face that the real engine finds."""
    candidates = [portrait.path for portrait in load_samples().portraits]
    candidates.append(Path(__file__).resolve().parents[3] / "shared" / "samples" / "boy.jpg")
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        pytest.skip("there is no sample portrait")
    return found


def _hum(path: Path, *, seconds: int) -> Path:
    rate = 16_000
    time = np.arange(seconds * rate) / rate
    syllables = 0.5 - 0.5 * np.cos(2 * np.pi * 3 * time)
    tone = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 8))
    soundfile.write(path, (0.2 * syllables * tone).astype(np.float32), rate)
    return path

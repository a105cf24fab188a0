"""The page in Chinese: what the server says, with its values, and nothing that is left in English."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.browser.apps import App
from tests.browser.conftest import NewPage

_SAID = "([name, value]) => import('./studio/js/translation.js').then(module => module[name](value))"
_ENGLISH = """() => { const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) { const {data, parentElement} = walker.currentNode;
        if (!parentElement.closest('script, style') && parentElement.checkVisibility()
            && /[A-Za-z]+( [a-z]+){2,}/.test(data)) found.push(data); }
    return found; }"""


def test_a_problem_is_said_with_its_values(
    paced: App, new_page: NewPage, voice: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "tiny.png")
    studio = new_page(paced, locale="zh-CN").open()
    studio.give(tmp_path / "tiny.png", voice)
    studio.generate()
    assert "图片只有 30×20 像素，太小了。" in studio.problem()
    assert studio.page.get_attribute("html", "lang") == "zh-CN"


def test_a_note_is_said_beside_the_video(paced: App, new_page: NewPage, portrait: Path, voice: Path) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced, locale="zh-CN").open()
    studio.give(portrait, voice)
    studio.describe("[note]")
    studio.generate()
    expect(studio.page.locator("#studio-stage .notes")).to_have_text("找到 2 张人脸，由最大的一张说话。")


def test_nothing_is_left_in_english(paced: App, new_page: NewPage) -> None:
    studio = new_page(paced, locale="zh-CN").open()
    studio.page.click("#studio-more button")
    studio.page.locator("#studio-use-model").wait_for()
    assert studio.page.evaluate(_ENGLISH) == []
    english = new_page(paced).open()
    assert len(english.page.evaluate(_ENGLISH)) > 5, "this finds English where it is"


def test_values_are_said_as_the_reader_expects(paced: App, new_page: NewPage) -> None:
    page = new_page(paced, locale="zh-CN").open().page

    def said(name: str, **value: object) -> object:
        return page.evaluate(_SAID, [name, value])

    change = {"seconds": "1.9", "new": "576x320, 3 steps", "old": "704x384, 4 steps", "dropped": ""}
    memory = {"cause": "memory_taken", "needed_bytes": 20 * 2**30, "available_bytes": 3 * 2**29}
    assert said("noteText", code="changed", text="", values=change | memory) == (
        "从第 1.9 秒起：改为 576×320、3 步（原为 704×384、4 步）。"
        "原因：可用的显存或内存少于需要（需要 20.0 GB，可用 1.5 GB）。"
    )
    dropped = {"seconds": "", "new": "", "old": "", "dropped": "8-bit caches"}
    nothing = {"cause": "asked", "needed_bytes": "", "available_bytes": ""}
    assert said("noteText", code="changed", text="", values=dropped | nothing) == (
        "不再采用：8 位缓存。原因：按您的要求。"
    )
    cues = {"cues": "not calm, look to the person's left"}
    assert "不要平静、看人物的左边" in str(said("noteText", code="prompt_understood", text="", values=cues))
    assert said("noteText", code="", text="An old sentence.", values={}) == "An old sentence."
    lost = {"code": "peer_lost", "title": "t", "cause": "c", "remedy": "r"}
    told = said("problemText", **lost, facts={"rank": 1, "num_ranks": 4})
    assert "问题出在第 2 块显卡（共 4 块）。" in str(told)
    assert said("problemText", **lost) == ["t", "c", "r"], "a problem that the page itself found"

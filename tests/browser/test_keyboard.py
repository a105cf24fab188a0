"""The page is used without a mouse: what has the focus shows it, and the arrow keys choose."""

from __future__ import annotations

from tests.browser.apps import App
from tests.browser.conftest import NewPage

# The ring of what has the focus (a radio's is that of its card), as long as nothing around it cuts it off.
_RING = """() => {
    const focused = document.activeElement;
    const shown = focused.type === "radio" ? focused.closest("label") : focused;
    const {outlineStyle, outlineWidth, outlineOffset} = getComputedStyle(shown);
    const reach = parseFloat(outlineOffset) + parseFloat(outlineWidth);
    const box = shown.getBoundingClientRect();
    let isWhole = true;
    for (let around = shown.parentElement; around; around = around.parentElement) {
        if (getComputedStyle(around).overflowX === "visible") continue;
        const edge = around.getBoundingClientRect();
        isWhole &&= box.left - reach >= edge.left - 1 && box.right + reach <= edge.right + 1;
    }
    return {
        name: shown.getAttribute("aria-label") || shown.innerText || shown.closest("[id]").id,
        isLast: focused.id === "studio-generate",
        // Gradio's list of exact sizes closes when the Tab key leaves it, now and then a moment late.
        isSeen: focused === document.body || outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 && isWhole,
    };
}"""


def test_what_has_the_focus_has_a_ring(paced: App, new_page: NewPage) -> None:
    page = new_page(paced).open().page
    page.click("#studio-more button")
    page.wait_for_selector("#studio-use-model")
    page.focus("#studio-portrait button")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    seen = [page.evaluate(_RING)]
    while not seen[-1]["isLast"]:
        page.keyboard.press("Tab")
        seen.append(page.evaluate(_RING))
        assert len(seen) < 60, "the button is never reached"
    assert len(seen) > 20
    assert [each["name"] for each in seen if not each["isSeen"]] == []


def test_the_arrow_keys_choose_a_size_and_an_engine(paced: App, new_page: NewPage) -> None:
    from playwright.sync_api import expect

    page = new_page(paced).open().page
    page.click("#studio-more button")
    for group, values in (
        ("#studio-size", ("small", "standard", "large")),
        ("#studio-engine", ("portrait", "s2v")),
    ):
        page.focus(f"{group} input[value=auto]")
        for value in values:
            page.keyboard.press("ArrowRight")
            expect(page.locator(f"{group} input[value={value}]")).to_be_checked()
            expect(page.locator(f"{group} label.selected input")).to_have_value(value)

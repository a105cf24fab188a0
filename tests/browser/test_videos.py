"""My videos: they survive a restart of the app, which the page sits out, and go when they are deleted."""

from __future__ import annotations

from pathlib import Path

from tests.browser.apps import App, paced_app
from tests.browser.conftest import NewPage


def test_videos_survive_a_restart_and_can_be_deleted(
    new_page: NewPage, tmp_path: Path, portrait: Path, voice: Path
) -> None:
    from playwright.sync_api import expect

    with paced_app(tmp_path) as app:
        studio = new_page(app).open()
        studio.make(portrait, voice, pace=400)
        studio.wait_for_state("finished")
        job_id = studio.job()["id"]
    page = studio.page
    page.locator("#studio-top .pill:has-text('Connection lost')").wait_for()
    with paced_app(tmp_path, port=int(app.url.rsplit(":", 1)[1])):
        page.locator("#studio-top .pill:has-text('Ready')").wait_for()
        studio.open()
        card = page.locator(f"#studio-videos [data-job='{job_id}']")
        card.locator(".poster").click()
        studio.wait_for_playback()
        when = card.locator(".label b").inner_text()
        page.get_by_role("button", name=f"Delete the video of {when}").click()
        card.locator("button:has-text('Keep')").click()
        assert card.is_visible()
        card.locator(".delete").click()
        card.locator("button:has-text('Delete')").click()
        card.wait_for(state="detached")
        page.wait_for_selector("#studio-stage[data-view=idle]")
        expect(page.locator("#studio-videos")).to_contain_text("Kept for up to 30 days")
        assert not list((tmp_path / "jobs").iterdir())


def test_a_video_that_could_not_be_deleted_stays_and_says_so(
    paced: App, new_page: NewPage, portrait: Path, voice: Path
) -> None:
    from playwright.sync_api import expect

    studio = new_page(paced).open()
    studio.make(portrait, voice, pace=400)
    studio.wait_for_state("finished")
    job_id = studio.job()["id"]
    card = studio.page.locator(f"#studio-videos [data-job='{job_id}']")
    studio.page.route(f"**/api/jobs/{job_id}", lambda route: route.abort())
    card.locator(".delete").click()
    card.locator("button:has-text('Delete')").click()
    expect(card.locator(".question")).to_contain_text("The app did not answer.")
    studio.page.unroute(f"**/api/jobs/{job_id}")
    card.locator("button:has-text('Delete')").click()
    card.wait_for(state="detached")

"""The dashboard in a real browser. `python -m tests.serving.gateway.http.test_dashboard` makes docs/dashboard.png."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from serving.jobs.job import Job, Preview, Stage, State
from serving.media import VideoWriter
from serving.media.preview import animate
from tests.serving.gateway.harness import Service, engine, running_service, until

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip
SECONDS = 20_000


def browser_path() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


pytestmark = [
    pytest.mark.skipif(browser_path() is None, reason="no Chromium is installed (Debian: apt install chromium)"),
    pytest.mark.timeout(180),
]


def colours(count: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """A bright disc that moves right over a dark ground."""
    y, x = np.mgrid[:height, :width]
    frames = np.full((count, height, width, 3), (24, 28, 60), np.uint8)
    for i in range(count):
        centre = width * (0.2 + 0.6 * i / max(1, count - 1))
        frames[i][(x - centre) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2] = (240, 180, 40)
    return frames


class Desk:
    """The router's part, for the page to show."""

    def __init__(self, service: Service, scratch: Path) -> None:
        self.service = service
        self.scratch = scratch

    def claim(self) -> Job:
        def claimed() -> list[Job]:
            self.service.store.put_engine(engine(self.service.store._db.now()))
            return self.service.store.claim("test", 1, 60.0, 5, ("tiny",))

        (job,) = until(claimed)
        return job

    def preview(self, job: Job, step: int) -> None:
        data, width, height = animate(colours(5, 15, 26), 0.25)
        key = f"jobs/{job.id}/{job.lease_epoch}/preview-{step}.webp"
        file = self.service.artifacts.put_bytes(key, data, "image/webp")
        held, _ = self.service.store.put_preview(
            job.id, job.lease_epoch, Preview(key, file.mime_type, width, height, file.size_bytes, step)
        )
        assert held

    def finish(self, job: Job) -> None:
        path = self.scratch / "made.mp4"
        with VideoWriter(path, 320, 180, 16, "mp4", {}) as writer:
            writer.write(colours(33, 180, 320))
        self.service.succeed(job, path.read_bytes(), self.scratch)


@contextmanager
def page_of(service: Service) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(SECONDS)
        expect.set_options(timeout=SECONDS)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        refused = "the server responded with a status of 4"  # the browser's own note of what the page shows
        page.goto(service.http + "/")
        try:
            yield page
            assert [problem for problem in problems if refused not in problem] == []
        finally:
            browser.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("dashboard")) as running:
        yield running


def make_video(page: Page, desk: Desk, prompt: str) -> Job:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Steps").fill("20")
    page.get_by_role("button", name="Make video").click()
    card = page.locator(".job", has_text=prompt)
    expect(card).to_contain_text("queued")
    job = desk.claim()
    desk.service.progress(job, Stage.DENOISING, 5, 12.0)
    expect(card).to_contain_text("step 5 of 20")
    expect(card).to_contain_text("about 12 s left")
    assert card.locator("progress").evaluate("bar => bar.value / bar.max") == 0.25
    return job


def test_a_video_from_the_form_to_the_screen(service: Service, tmp_path: Path) -> None:
    desk = Desk(service, tmp_path)
    with page_of(service) as page:
        expect(page.locator("#empty")).to_be_visible()
        job = make_video(page, desk, "an amber disc moves right")
        card = page.locator(".job")
        expect(page.locator("#engines")).to_have_text("1")
        desk.preview(job, 10)
        desk.service.progress(job, Stage.DENOISING, 10, 6.0)
        expect(card).to_contain_text("step 10 of 20")
        picture = card.locator("img")
        expect(picture).to_have_attribute("alt", "preview after step 10")
        until(lambda: page.evaluate("document.querySelector('.job img')?.naturalWidth > 0"))
        desk.finish(job)
        expect(card).to_contain_text("succeeded")
        until(lambda: page.evaluate("document.querySelector('.job video')?.currentTime > 0.2"))
        assert page.evaluate("document.querySelector('.job video').videoWidth") == 320
        card.get_by_role("button", name="Delete").click()
        expect(card).to_have_count(0)
    assert service.store.get(job.id, "") is None


def test_cancel_and_errors_are_shown(service: Service) -> None:
    with page_of(service) as page:
        page.get_by_label("Prompt").fill("to be cancelled <b>not bold</b>")
        page.get_by_role("button", name="Make video").click()
        card = page.locator(".job")
        expect(card).to_contain_text("<b>not bold</b>")
        card.get_by_role("button", name="Cancel").click()
        expect(card).to_contain_text("cancelled")
        page.get_by_label("Prompt").fill("too long")
        page.locator("[name=duration_seconds]").evaluate("field => { field.max = ''; field.value = '1000'; }")
        page.get_by_role("button", name="Make video").click()
        expect(page.locator("#message")).to_contain_text("duration_seconds")
        (job,) = service.store.list("", page_size=5)
        assert job.state is State.CANCELLED


def main() -> None:
    """The screenshot in the docs."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/dashboard.png")
    with tempfile.TemporaryDirectory() as folder, running_service(Path(folder)) as service:
        desk = Desk(service, Path(folder))
        with page_of(service) as page:
            for prompt in ("an amber disc drifts over a night sky", "the same disc at dawn"):
                desk.finish(make_video(page, desk, prompt))
            until(lambda: page.evaluate("[...document.querySelectorAll('.job video')].every(v => v.currentTime > 0.4)"))
            job = make_video(page, desk, "a disc rolls along the horizon, seen from afar")
            desk.preview(job, 10)
            desk.service.progress(job, Stage.DENOISING, 12, 12.0)
            until(lambda: page.evaluate("document.querySelector('.job img')?.naturalWidth > 0"))
            page.get_by_label("Prompt").fill("a lantern swings in the wind")
            page.screenshot(path=target)


if __name__ == "__main__":
    main()

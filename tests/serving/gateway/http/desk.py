"""The dashboard in a real browser, with the router's part played by hand."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect, sync_playwright

from tests.serving.gateway.harness import Service, until
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.jobs.job import EngineRow, Job, Preview, State
from zoetrope.serving.media import VideoWriter
from zoetrope.serving.media.preview import animate

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip
UNPACKED = Path(sys.prefix) / "chromium" / "chromium"
MILLISECONDS = 20_000  # that the page has to become as a test wants it
NANO = "nano"  # serves all six tasks


def browser_path() -> Path | None:
    """Chromium as it is installed, or else the one that `make test` unpacks where there is Node."""
    installed = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if installed:
        return Path(installed)
    return UNPACKED if UNPACKED.is_file() and platform.machine() == "x86_64" else None


def _environment(browser: Path) -> dict[str, str]:
    """What the unpacked one needs: it brings its own libraries and fonts."""
    own = {"LD_LIBRARY_PATH": "al2023/lib", "FONTCONFIG_PATH": "fonts"} if browser == UNPACKED else {}
    return {**os.environ, **{name: str(browser.parent / folder) for name, folder in own.items()}}


def colours(count: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """A bright disc that moves right over a dark ground."""
    y, x = np.mgrid[:height, :width]
    frames = np.full((count, height, width, 3), (24, 28, 60), np.uint8)
    for i in range(count):
        centre = width * (0.2 + 0.6 * i / max(1, count - 1))
        frames[i][(x - centre) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2] = (240, 180, 40)
    return frames


def write_clip(path: Path, count: int, height: int = 180, width: int = 320, fps: int = 16) -> Path:
    """An MP4 of those frames."""
    with VideoWriter(path, width, height, fps, "mp4", {}) as writer:
        writer.write(colours(count, height, width))
    return path


class Desk:
    """The router's part, for the page to show."""

    def __init__(self, service: Service, scratch: Path) -> None:
        self.service = service
        self.video = write_clip(scratch / "made.mp4", 33).read_bytes()
        self.scratch = scratch

    def engine(self, jobs: tuple[str, ...] = (), state: str = "ready") -> None:
        """Have an engine report what it runs."""
        now = self.service.store._db.now()
        self.service.store.put_engine(EngineRow("engine-0", NANO, 3, 1, now, state, {"died": 1}, jobs))

    def claim(self) -> Job:
        """Take up the one job that waits."""

        def claimed() -> list[Job]:
            self.engine()
            return claim_oldest(self.service.store, "test", 1, 60.0, 5, (NANO,))

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
        self.service.succeed(job, self.video, self.scratch)

    def fail(self, job: Job, reason: str) -> None:
        assert self.service.store.finish(
            job.id, job.lease_epoch, State.FAILED, error_code="INTERNAL", error_message=reason
        )


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Chromium, for as many pages as come.

    Skips the test on a machine without one; in CI that is a failure.
    """
    path = browser_path()
    if path is None:
        assert not os.environ.get("CI"), "a Chromium has to be installed, see CONTRIBUTING.md"
        pytest.skip("needs a Chromium, see CONTRIBUTING.md")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS), env={**_environment(path)})
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_of(browser: Browser, address: str, known: bool = True, **options: Any) -> Iterator[Page]:
    """The dashboard of a service, in a session of its own; afterwards the browser must have had nothing to complain of.

    ``known``: wait until the form knows the model.
    """
    with browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}) as context:
        page = context.new_page()
        page.set_default_timeout(MILLISECONDS)
        expect.set_options(timeout=MILLISECONDS)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        refused = "the server responded with a status of 4"  # the browser's own note of what the page shows
        page.goto(address + "/")
        if known:
            expect(page.get_by_role("radio", name="Edit")).to_be_attached()
        yield page
        unexpected = [problem for problem in problems if refused not in problem]
        assert not unexpected, unexpected


def asset(name: str, mime_type: str, data: bytes) -> FilePayload:
    """A file as a user chooses it."""
    return {"name": name, "mimeType": mime_type, "buffer": data}

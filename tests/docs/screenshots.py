"""Makes the pictures of the dashboard in the documents, of a service with nano and a clip of each task.

python -m tests.docs.screenshots; it takes some minutes and needs a Chromium, see CONTRIBUTING.md.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.docs.pages import ROOT
from tests.serving.gateway.harness import until
from tests.serving.gateway.http.desk import asset, page_of, running_browser
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.media.inputs import Clip, Inputs, Picture
from zoetrope.model.nano.animation import SEED
from zoetrope.model.nano.cases import NanoCase, held_out
from zoetrope.model.nano.samples import TASKS
from zoetrope.serving.cli.service import private_service, serve_command
from zoetrope.serving.media import VideoWriter

FOLDER = ROOT / "docs" / "images"
READY_SECONDS = 600.0
JOB_MILLISECONDS = 900_000
SCALE = 8  # nano's pictures are small
NAMES = dict(zip(TASKS, ("Text", "Image", "First & last", "Grid", "References", "Edit"), strict=True))
DESK = {"width": 1500, "height": 1000}
PHONE = {"width": 390, "height": 844}
MAX_BYTES = 150_000
STILL = """document.querySelectorAll("video").forEach(video => {
  video.pause(); video.controls = false; video.currentTime = 1;
})"""


def picture(name: str, medium: Picture) -> FilePayload:
    """A PNG of it."""
    out = io.BytesIO()
    Image.fromarray(np.kron(medium.pixels, np.ones((SCALE, SCALE, 1), np.uint8))).save(out, "PNG")
    return asset(f"{name}.png", "image/png", out.getvalue())


def clip(name: str, medium: Clip, scratch: Path) -> FilePayload:
    """An MP4 of it."""
    frames = np.kron(medium.frames, np.ones((1, SCALE, SCALE, 1), np.uint8))
    path = scratch / f"{name}.mp4"
    with VideoWriter(path, frames.shape[2], frames.shape[1], round(medium.fps), "mp4", {}) as writer:
        writer.write(frames)
    return asset(path.name, "video/mp4", path.read_bytes())


def files_of(inputs: Inputs, kind: str, scratch: Path) -> dict[str, list[FilePayload]]:
    """A case's media by slot."""
    ends = ("image", "last_frame") if kind == "image_to_video" else ("first_frame", "last_frame")
    found = {
        slot: [picture(slot.replace("_", "-"), medium)]
        for slot, medium in zip(ends, (inputs.first, inputs.last), strict=True)
        if medium is not None
    }
    found["panels"] = [picture(f"panel-{i + 1}", panel) for i, panel in enumerate(inputs.panels)]
    found["references"] = [
        picture(f"thing-{i + 1}", medium) for i, medium in enumerate(inputs.references) if isinstance(medium, Picture)
    ]
    if inputs.video is not None:
        found["video"] = [clip("source", inputs.video, scratch)]
    return {slot: files for slot, files in found.items() if files}


def fill(page: Page, case: NanoCase, scratch: Path) -> None:
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("radio", name=NAMES[case.kind]).check()
    for slot, files in files_of(case.inputs, case.kind, scratch).items():
        page.set_input_files(f"#slot-{slot}", files)
    page.get_by_label("Prompt", exact=True).fill(case.spec.prompt)
    page.locator("[name=seed]").fill(str(case.spec.seed))


def make(page: Page) -> None:
    page.get_by_role("button", name="Make video").click(timeout=JOB_MILLISECONDS)
    expect(page.locator("#form")).to_have_js_property("inert", False)


def rest(page: Page) -> None:
    """Wait until every video on the screen shows something, and stop them there."""
    page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
    until(lambda: page.evaluate("[...document.querySelectorAll('video')].every(v => v.readyState > 1)"), 60)
    page.evaluate(STILL)
    until(lambda: page.evaluate("[...document.querySelectorAll('video')].every(v => !v.seeking)"), 60)


def shoot(page: Page, name: str) -> None:
    """Write a PNG of at most MAX_BYTES, with as many colours as that allows."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for colours in (256, 128, 64, 32):
        out = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if len(out.getvalue()) <= MAX_BYTES:
            break
    (FOLDER / name).write_bytes(out.getvalue())
    print(f"{FOLDER / name}: {len(out.getvalue())} bytes, {colours} colours", flush=True)


def visit(browser: Browser, address: str, scratch: Path) -> None:
    """Make a clip of each task, and take the pictures."""
    card = find_model("nano")
    cases = [held_out(kind, card, i + 1, SEED)[i] for i, kind in enumerate(TASKS)]
    with page_of(browser, address, viewport=DESK) as page:
        for case in cases:
            fill(page, case, scratch)
            make(page)
            expect(page.locator(".badge").first).to_have_text("succeeded", timeout=JOB_MILLISECONDS)
            print(f"{case.kind} is made", flush=True)
        fill(page, cases[0], scratch)
        rest(page)
        shoot(page, "dashboard.png")
    with page_of(browser, address, viewport=DESK, color_scheme="dark") as page:
        fill(page, cases[4], scratch)
        page.locator("[name=steps]").evaluate("steps => { steps.value = 200; }")
        page.get_by_role("button", name="engine").click()
        make(page)
        expect(page.locator(".job img").first).to_be_visible(timeout=JOB_MILLISECONDS)
        expect(page.locator("#engines tbody")).to_contain_text("of 200")
        page.locator(".job details summary").nth(1).click()
        expect(page.locator(".job dl").nth(1)).to_contain_text("Seed")
        rest(page)
        shoot(page, "dashboard-dark.png")
        page.get_by_role("button", name="Cancel").first.click()
    with page_of(browser, address, viewport=PHONE) as page:
        fill(page, cases[5], scratch)
        expect(page.locator("#summary")).not_to_have_text("Uploading…", timeout=JOB_MILLISECONDS)
        page.evaluate("scrollTo(0, 0)")
        shoot(page, "dashboard-phone.png")


def main() -> None:
    """Run a service, take the pictures, and stop it."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        with private_service(serve_command("nano", scratch / "data"), scratch / "log") as service:
            address = f"http://{service.wait_ready(READY_SECONDS).http}"
            with running_browser() as browser:
                visit(browser, address, scratch)


if __name__ == "__main__":
    main()

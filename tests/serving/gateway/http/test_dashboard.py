"""The dashboard in a real browser: what a user does with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, expect

from tests.serving.gateway.harness import Service, running_service, until
from tests.serving.gateway.http.desk import NANO, Desk, asset, page_of, running_browser
from tests.serving.gateway.http.samples import clip, picture, sound
from zoetrope.serving.jobs.forecast_table import JobForecast, ModelForecast, TenantQueue
from zoetrope.serving.jobs.job import EngineRow, Job, Stage, State
from zoetrope.serving.jobs.key_table import KeyTable

pytestmark = pytest.mark.timeout(180)
PICTURE = asset("cat.png", "image/png", picture(64, 40))
CLIP = asset("walk.mp4", "video/mp4", clip(2.0))
SOUND = asset("tone.wav", "audio/wav", sound())
# What a user chooses for each task, by slot, and what becomes of it.
GIVEN: dict[str, dict[str, list[FilePayload]]] = {
    "Text": {},
    "Image": {"image": [PICTURE]},
    "First & last": {"first_frame": [PICTURE], "last_frame": [asset("dog.png", "image/png", picture(64, 40, 1))]},
    "Grid": {"panels": [asset(f"{i}.png", "image/png", picture(48, 32, i)) for i in range(9)]},
    "References": {"references": [PICTURE, CLIP]},
    "Edit": {"video": [CLIP]},  # and the references, which stay in the form
}
KINDS = dict(zip(GIVEN, ("text_to_video", "image_to_video", "first_last_frame", "grid_to_video", "reference_to_video",
                         "edit_video"), strict=True))  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("dashboard"), model=NANO) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as running:
        yield running


@pytest.fixture
def desk(service: Service, tmp_path: Path) -> Iterator[Desk]:
    yield Desk(service, tmp_path)
    service.empty_queue()
    for job in service.store.list("", page_size=1_000):
        service.store.delete(job.id, "")


def choose(page: Page, task: str, prompt: str, files: dict[str, list[FilePayload]]) -> None:
    page.get_by_role("radio", name=task).check()
    for slot, chosen in files.items():
        page.set_input_files(f"#slot-{slot}", chosen)
    page.get_by_label("Prompt", exact=True).fill(prompt)


def submit(page: Page) -> None:
    page.get_by_role("button", name="Make video").click()  # once every upload is there


def card_of(page: Page, text: str) -> Locator:
    return page.locator(".job", has_text=text)


def has_loaded(card: Locator) -> None:
    """Its video plays, or has played."""
    until(lambda: card.evaluate("card => card.querySelector('video')?.currentTime > 0"))


def test_every_task_from_the_form_to_the_file(browser: Browser, desk: Desk) -> None:
    service, jobs = desk.service, []
    with page_of(browser, service.http) as page:
        page.get_by_text("Sampling").click()
        page.get_by_text("Sound and file").click()
        for task, files in GIVEN.items():
            choose(page, task, f"a disc, by {task}", files)
            if task == "Text":
                fill_settings(page)
            submit(page)
            job = desk.claim()
            check_media(job, task)
            service.progress(job, Stage.DENOISING, 5, 12.0)
            jobs.append(job)
        check_settings(jobs[0])
        cards = [page.locator(f"[data-id={job.id}]") for job in jobs]
        for card in cards:
            expect(card).to_contain_text("step 5 of 20")
            expect(card).to_contain_text("about 12 s left")
        follow_preview(cards[-1], desk, jobs[-1])
        for job in jobs:
            desk.finish(job)
        for job, card in zip(jobs, cards, strict=True):
            expect(card).to_contain_text("succeeded")
            card.scroll_into_view_if_needed()
            has_loaded(card)
            with page.expect_download() as download:
                card.get_by_role("link", name="Download").click()
            assert Path(download.value.path()).read_bytes() == desk.video
            assert download.value.suggested_filename == f"{job.id}.mp4"
        card.get_by_text("Details").click()
        expect(card.locator("dl")).to_contain_text("9007199254740993")
        card.get_by_role("button", name="Delete").click()
        expect(card.get_by_role("button", name="Delete")).to_have_text("Delete for good")
        card.get_by_role("button", name="Delete").click()
        expect(card).to_have_count(0)
        expect(page.locator(".job")).to_have_count(5)
    assert service.store.get(jobs[-1].id, "") is None


def fill_settings(page: Page) -> None:
    """They stay for the tasks that follow."""
    page.get_by_label("Steps").fill("20")
    page.get_by_label("Guidance", exact=True).fill("2.5")
    page.get_by_label("Negative prompt", exact=True).fill("blur")
    page.get_by_label("Seed").fill("9007199254740993")
    page.set_input_files("#slot-audio", SOUND)


def check_settings(job: Job) -> None:
    spec = job.spec
    assert (spec["steps"], spec["guidance"], spec["seed"]) == (20, 2.5, 2**53 + 1)
    assert spec["task"]["negative_prompt"] == "blur"
    assert spec["audio"] in job.media


def check_media(job: Job, task: str) -> None:
    asked = job.spec["task"]
    assert (asked["kind"], asked["prompt"]) == (KINDS[task], f"a disc, by {task}")
    for name, files in GIVEN[task].items():
        found = [asked[name]] if isinstance(asked[name], str) else asked[name]
        assert len(found) == len(files)
    if task == "Edit":
        assert len(asked["references"]) == 2


def follow_preview(card: Locator, desk: Desk, job: Job) -> None:
    assert card.locator("progress").evaluate("bar => bar.value / bar.max") == 0.25
    desk.preview(job, 10)
    desk.service.progress(job, Stage.DENOISING, 10, 6.0)
    expect(card).to_contain_text("step 10 of 20")
    expect(card.locator("img")).to_have_attribute("alt", "preview after step 10")
    until(lambda: card.evaluate("card => card.querySelector('img')?.naturalWidth > 0"))


def test_what_is_wrong_is_said_where_it_is(browser: Browser, desk: Desk) -> None:
    service = desk.service
    with page_of(browser, service.http) as page:
        choose(page, "Edit", "", {"video": [PICTURE]})
        page.get_by_label("Seconds").fill("1000")
        submit(page)
        expect(page.locator("#message")).to_contain_text("duration_seconds")
        expect(page.get_by_label("Seconds")).to_have_attribute("aria-invalid", "true")
        expect(page.locator("#fault-video")).to_contain_text("is a picture, give a clip")
        expect(page.get_by_label("Prompt", exact=True)).to_have_attribute("aria-describedby", "fault-prompt")
        page.set_input_files("#slot-video", asset("notes.mp4", "video/mp4", b"no clip at all"))
        expect(page.locator("#slots .files .fault")).to_contain_text("file:")
        submit(page)  # not without it
        expect(page.locator("#fault-video")).to_contain_text("remove it or choose another")
        page.get_by_role("radio", name="First & last").check()
        page.get_by_role("radio", name="References").check()
        page.set_input_files("#slot-references", [PICTURE] * 3)
        expect(page.locator("[data-field=references]")).to_contain_text("3 files, 2 of them are taken")
        page.get_by_role("button", name="Clear").click()
        expect(page.locator(".fault:visible")).to_have_count(0)
        assert service.store.list("", page_size=5) == []

        choose(page, "Text", "a disc <b>not bold</b>", {})
        submit(page)
        card = card_of(page, "<b>not bold</b>")
        desk.fail(desk.claim(), "the engine ran out of memory at 832x480")
        expect(card.locator(".error")).to_have_text("the engine ran out of memory at 832x480")
        expect(card.locator(".badge")).to_have_text("failed")
        assert card.get_by_role("link", name="Download").count() == 0
        choose(page, "Text", "to be cancelled", {})
        submit(page)
        card = card_of(page, "to be cancelled")
        card.get_by_role("button", name="Cancel").click()
        expect(card.locator(".badge")).to_have_text("cancelled")
    assert {job.state for job in service.store.list("", page_size=5)} == {State.FAILED, State.CANCELLED}


def test_again_with_a_new_seed_and_on(browser: Browser, desk: Desk) -> None:
    service = desk.service
    with page_of(browser, service.http) as page:
        choose(page, "References", "Image 1 meets Image 2", {"references": [PICTURE, CLIP]})
        page.get_by_role("button", name="Move walk.mp4 forward").click()
        page.get_by_role("combobox", name="Size", exact=True).select_option("720p")
        page.get_by_role("combobox", name="Ratio", exact=True).select_option("9:16")
        page.get_by_label("Seconds").fill("1.5")
        page.get_by_label("Seed").fill("9007199254740993")
        submit(page)
        first = desk.claim()
        desk.finish(first)
        card = page.locator(f"[data-id={first.id}]")
        assert (first.spec["width"], first.spec["height"], first.spec["frames"]) == (720, 1280, 12)

        page.get_by_role("radio", name="Text").check()
        card.get_by_role("button", name="Again").click()
        expect(page.get_by_role("radio", name="References")).to_be_checked()
        expect(page.locator("#slots .files li").first).to_contain_text("Video 1")
        expect(page.locator("#slots .files li").first).to_contain_text("walk.mp4")
        expect(page.get_by_role("combobox", name="Ratio", exact=True)).to_have_value("9:16")
        submit(page)
        same = desk.claim()
        assert untimed(same) == untimed(first)
        service.store.finish(same.id, same.lease_epoch, State.CANCELLED)

        card.get_by_role("button", name="New seed").click()
        other = desk.claim()
        assert other.spec["seed"] != first.spec["seed"] == 2**53 + 1 and untimed(other) == {
            **untimed(first),
            "seed": other.spec["seed"],
        }
        desk.finish(other)

        card.get_by_role("button", name="Extend").click()
        expect(page.get_by_role("radio", name="Image")).to_be_checked()
        expect(page.locator("#slots .files").first).to_contain_text(f"operations/{first.id}")
        expect(page.get_by_label("Seed")).to_have_value("")
        page.get_by_label("Prompt", exact=True).fill("and then it stops")
        submit(page)
        longer = desk.claim()
        clip_id = longer.spec["task"]["clip"]
        assert (longer.spec["task"]["kind"], longer.spec["task"]["prompt"]) == ("image_to_video", "and then it stops")
        media = service.stores.media.get(clip_id, "")
        assert media is not None and media.size_bytes == len(desk.video)
        assert (longer.spec["width"], longer.spec["height"]) == (720, 1280)


def untimed(job: Job) -> dict[str, Any]:
    return {name: value for name, value in job.spec.items() if name != "warnings"}


def test_search_pages_and_videos_that_are_seen(browser: Browser, desk: Desk) -> None:
    service = desk.service
    for i in range(30):
        service.client.create(prompt=f"disc number {i}", steps=2)
        job = desk.claim()
        if i == 3:
            desk.fail(job, "it broke")
        else:
            desk.finish(job)
    with page_of(browser, service.http) as page:
        cards = page.locator(".job")
        expect(cards).to_have_count(24)
        has_loaded(card_of(page, "disc number 29"))
        last = card_of(page, "disc number 6")
        assert 0 < page.locator(".job video").count() < 20 and last.locator("video").count() == 0
        last.scroll_into_view_if_needed()
        has_loaded(last)
        until(lambda: card_of(page, "disc number 29").evaluate("card => card.querySelector('video').paused"))

        page.get_by_role("button", name="Older").click()
        expect(cards).to_have_count(6)
        expect(page.locator("#place")).to_have_text("page 2")
        expect(page.get_by_role("button", name="Older")).to_be_disabled()
        page.get_by_role("button", name="Newer").click()
        expect(cards).to_have_count(24)

        page.get_by_role("searchbox").fill("NUMBER 3")
        expect(cards).to_have_count(1)
        expect(cards).to_contain_text("disc number 3")
        page.get_by_role("searchbox").fill("")
        page.get_by_role("combobox", name="State", exact=True).select_option("failed")
        expect(cards).to_have_count(1)
        page.reload()  # the address has it
        expect(cards).to_have_count(1)
        page.get_by_role("combobox", name="Of task", exact=True).select_option("Edit")
        expect(page.locator("#empty")).to_have_text("No video matches.")


def test_engines_and_what_they_run(browser: Browser, desk: Desk) -> None:
    service = desk.service
    service.client.create(prompt="mine")
    job = desk.claim()
    service.progress(job, Stage.DENOISING, 3)
    with page_of(browser, service.http) as page:
        page.get_by_role("button", name="engine").click()
        shows = ("1 engine", NANO, "ready", "1 died", "mine", "step 3 of")
        until(lambda: told(desk, page, *shows, jobs=(job.id,)))
        until(lambda: told(desk, page, "0 of 1 engines ready", "nothing now", state="out"))


def test_the_queue_and_why_jobs_wait(browser: Browser, desk: Desk) -> None:
    service = desk.service
    name = service.client.create(prompt="a patient disc")
    waiting = JobForecast(40.0, 30.0, 75.0, 3, 20.0, "ahead")
    tenants = {"": TenantQueue(1, 0, 12.5), "acme": TenantQueue(3, 1, 60.0)}
    forecast = ModelForecast(NANO, jobs={name.removeprefix("operations/"): waiting}, tenants=tenants, gpus=1, engines=1)
    step = {"tokens": 480, "seconds": 0.25, "expected": 0.2}
    with page_of(browser, service.http) as page:
        page.get_by_role("button", name="engine").click()

        def shown(*texts: str) -> bool:
            service.stores.forecasts.put(forecast)
            now = service.store._db.now()
            service.store.put_engine(EngineRow("engine-0", NANO, 3, 1, now, step=step))
            found = page.locator("header").inner_text()
            return all(text in found for text in texts)

        until(
            lambda: shown("250 ms, predicted 200 ms", "all others", "60", "a patient disc", "waiting for 3 jobs ahead")
        )
        expect(card_of(page, "a patient disc")).to_contain_text(
            re.compile(r"about [0-9]+ s left \([0-9]+ s to [0-9]+ s\)")
        )
        expect(card_of(page, "a patient disc")).to_contain_text("3 in front")


def told(desk: Desk, page: Page, *texts: str, **report: Any) -> bool:
    """Whether the page says all this after an engine's report, which is good for some seconds."""
    desk.engine(**report)
    header = page.locator("header").inner_text()
    return all(text in header for text in texts)


CONTRAST = """() => {
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = colour => {
    context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = colour => colour.slice(0, 3).map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const bad = [];
  for (const node of document.querySelectorAll('body *')) {
    const text = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
    if (!text || !node.checkVisibility() || node.closest(':disabled, script, style, option')) continue;
    const under = node => rgb(getComputedStyle(node).backgroundColor);
    let ground = node;
    while (ground.parentElement && under(ground)[3] < 255) ground = ground.parentElement;
    const pair = [rgb(getComputedStyle(node).color), under(ground)].map(light);
    const ratio = (Math.max(...pair) + .05) / (Math.min(...pair) + .05);
    if (ratio < 4.5) bad.push([node.className || node.tagName, node.textContent.slice(0, 30), ratio]);
  }
  return bad;
}"""
NAMELESS = """() => [...document.querySelectorAll('input, select, textarea, button, a, video, progress')]
  .filter(node => !(node.labels?.length || node.getAttribute('aria-label') || node.textContent.trim()))
  .map(node => node.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(browser: Browser, desk: Desk, scheme: Any) -> None:
    """On a phone, by keyboard alone, with names for what reads the page out, in colours that can be told apart."""
    service = desk.service
    service.client.create(prompt="a disc" * 40)
    desk.fail(desk.claim(), "x" * 200)
    phone = {"width": 360, "height": 740}
    with page_of(browser, service.http, viewport=phone, color_scheme=scheme, reduced_motion="reduce") as page:
        expect(page.locator(".job .error")).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the videos")).to_be_focused()
        page.get_by_role("radio", name="Text").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("radio", name="Image")).to_be_checked()
        page.set_input_files("#slot-image", PICTURE)
        expect(page.locator("#slots .files").first).to_contain_text("64×40")
        page.get_by_text("Sampling").click()
        page.get_by_text("Sound and file").click()
        page.get_by_role("button", name="engine").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"]
        assert page.evaluate(CONTRAST) == []
        assert page.evaluate(NAMELESS) == []


def test_a_key_is_asked_for_when_it_is_needed(browser: Browser, desk: Desk) -> None:
    """The last test: once there is a key, the service asks everybody for one."""
    keys: KeyTable = desk.service.stores.keys
    _, secret = keys.create("browser", "acme")
    with page_of(browser, desk.service.http, known=False) as page:
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()  # by itself
        expect(page.locator("#link")).to_contain_text("an API key is needed")
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="API key").click()
        page.get_by_label("Key", exact=True).fill("zk_wrong")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("API key")
        page.get_by_label("Key", exact=True).fill(secret)
        page.keyboard.press("Enter")
        expect(page.locator("#link")).to_be_empty()
        expect(dialog).to_be_hidden()
        choose(page, "Image", "of acme", {"image": [PICTURE]})
        submit(page)
        expect(card_of(page, "of acme")).to_have_count(1)
    (job,) = desk.service.store.list("acme", page_size=5)
    desk.service.store.request_cancel(job.id, "acme")

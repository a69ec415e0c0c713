"""What the dashboard's page reads and sends, without a browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.serving.gateway.harness import Service, running_service
from tests.serving.gateway.http.samples import clip, picture, sound
from tests.serving.jobs.harness import claim_oldest
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.tasks import TASKS, VideoRequest
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.http.dashboard import listing
from zoetrope.serving.gateway.http.dashboard.page import HEADERS, PAGE
from zoetrope.serving.gateway.http.dashboard.schema import NewVideo
from zoetrope.serving.gateway.http.dashboard.views import model_form
from zoetrope.serving.jobs.job import EngineRow, State
from zoetrope.serving.jobs.key_table import KeyTable

NANO = "nano"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("dashboard-api"), model=NANO) as running:
        yield running


@pytest.fixture
def web(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{service.http}/dashboard", timeout=30) as client:
        yield client
    service.empty_queue()
    for job in service.store.list("", page_size=1_000):
        service.store.delete(job.id, "")


def create(web: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = web.post("/jobs", json=fields)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def finish(service: Service, job_id: str, data: bytes, scratch: Path) -> None:
    (job,) = claim_oldest(service.store, "test", 1, 60.0, 5, (NANO,))
    assert job.id == job_id
    service.succeed(job, data, scratch)


def test_the_form_has_every_field_of_a_request() -> None:
    wanted = {name for task in TASKS for name in task.model_fields} | set(VideoRequest.model_fields)
    left_out = {"kind", "keep_latents"}  # a page has no use for latents
    assert set(NewVideo.model_fields) == wanted - left_out


def test_the_form_follows_the_model() -> None:
    settings, nano = Settings(model=(NANO,)), find_model(NANO)
    assert [task.kind for task in model_form(nano, settings).tasks] == list(nano.tasks)
    changes: dict[str, Any] = {"boundary": 0.9, "reference_clips": False, "ends_with_frame": False, "max_references": 3}
    card = replace(nano, tasks=("image_to_video", "reference_to_video"), **changes)
    form = model_form(card, settings)
    images, references = form.tasks
    assert (images.kind, images.switches, form.two_experts) == ("image_to_video", [], True)
    slots = {slot.name: (slot.kind, slot.most, slot.required) for slot in references.media}
    assert slots == {"references": ("image", 3, True), "first_frame": ("image", None, False)}


def test_the_page_runs_nothing_but_its_own_and_asks_nobody_else() -> None:
    policy = HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert len(re.findall("<script>", PAGE)) == policy.partition("style-src")[0].count("sha256-") == 5
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", PAGE) and "style=" not in PAGE
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", PAGE)


def test_files_are_what_they_hold(web: httpx.Client) -> None:
    kinds = {}
    for name, data in (("a.png", picture(48, 32)), ("b.mp4", clip(2.0)), ("c.wav", sound())):
        answer = web.post("/files", files={"file": (name, data)})
        assert answer.status_code == 201
        found = answer.json()
        kinds[name] = (found["kind"], found["width"], found["seconds"], found["has_audio"])
        path = f"/files/{found['name'].removeprefix('media/')}"
        assert web.get(path).json() == found
        assert web.get(f"{path}/content").content == data
    assert kinds == {
        "a.png": ("image", 48, 0, False),
        "b.mp4": ("clip", 80, 2, False),
        "c.wav": ("sound", None, 1, True),
    }
    assert web.get("/files/med_x").status_code == 404
    for files in ({"file": ("a.png", b"no picture")}, {"other": ("a.png", picture())}):
        answer = web.post("/files", files=files)
        assert answer.status_code == 400 and list(answer.json()["fields"]) == ["file"]


def test_the_request_of_a_job_makes_the_same_again(service: Service, web: httpx.Client, tmp_path: Path) -> None:
    upload = web.post("/files", files={"file": ("b.mp4", clip(2.0))}).json()["name"]
    asked = {"task": "edit_video", "prompt": "make it é🐈", "video": upload, "references": [upload], "steps": 3,
             "guidance": 1.5, "seed": str(2**53 + 1), "negative_prompt": "", "keep_audio": True}  # fmt: skip
    first = create(web, **asked)
    finish(service, first["id"], b"video", tmp_path)
    found = web.get(f"/jobs/{first['id']}").json()
    assert (found["seed"], found["api"], found["size_bytes"]) == (str(2**53 + 1), "dashboard", 5)
    assert (found["request"]["video"], found["request"]["references"]) == (upload, [upload])
    specs = []
    for job_id in (first["id"], create(web, **found["request"])["id"]):
        job = service.store.get(job_id, "")
        assert job is not None
        specs.append(job.spec)
    assert specs[0] == specs[1]
    assert httpx.get(service.http + found["download"]).content == b"video"  # without a key


def test_fields_at_fault_are_named_as_they_were_sent(web: httpx.Client) -> None:
    answer = web.post("/jobs", json={"task": "first_last_frame", "first_frame": "media/x", "image": "x", "steps": 0})
    assert answer.status_code == 400
    assert set(answer.json()["fields"]) == {"last_frame", "image"}
    answer = web.post("/jobs", json={"task": "text_to_video", "steps": 0, "size": "1x1"})
    assert set(answer.json()["fields"]) == {"prompt", "steps", "size"}
    assert web.post("/jobs", json={"task": "dance", "prompt": "x"}).json()["fields"].keys() == {"task"}


def test_pages_and_filters(service: Service, web: httpx.Client) -> None:
    ids = [create(web, prompt=f"Disc {i}", steps=1)["id"] for i in range(7)][::-1]
    service.store.request_cancel(ids[0], "")

    def page(**query: Any) -> tuple[list[str], str]:
        found = web.get("/state", params=query).json()
        return [job["id"] for job in found["jobs"]], found["next_page_token"]

    first, token = page(page_size=3)
    second, token = page(page_size=3, page_token=token)
    third, end = page(page_size=3, page_token=token)
    assert first + second + third == ids and end == ""
    assert page(filter="state=cancelled") == ([ids[0]], "")
    assert page(search="dISC 2") == ([ids[4]], "")
    assert page(search=ids[2]) == ([ids[2]], "")
    for bad in (
        {"filter": "colour=red"},
        {"search": "x" * 201},
        {"page_size": -1},
        {"page_token": token, "search": "x"},
    ):
        answer = web.get("/state", params=bad)
        assert answer.status_code == 400 and len(answer.json()["fields"]) == 1


def test_a_long_search_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 25 jobs, one call reads four at a time and twelve in all."""
    rows = [
        SimpleNamespace(id=f"vid_{i:02}", created_at=100.0 - i, spec={"task": {"prompt": f"disc {i}"}})
        for i in range(25)
    ]
    sizes = []

    async def jobs(who: Any, *, page_size: int, where: Any, before: tuple[float, str] | None) -> list[Any]:
        sizes.append(page_size)
        return [row for row in rows if before is None or row.created_at < before[0]][:page_size]

    monkeypatch.setattr(listing, "MAX_PAGE_SIZE", 4)
    monkeypatch.setattr(listing, "MAX_SEARCHED", 12)
    call: Any = SimpleNamespace(core=SimpleNamespace(jobs=jobs), who=None)

    def search(token: str) -> listing.JobPage:
        return asyncio.run(listing.page_of_jobs(call, filter="", search="disc 24", size=5, token=token))

    first = search("")
    assert (list(first.jobs), first.searched_to, sizes) == ([], 89.0, [4, 4, 4])
    second = search(first.next_token)
    third = search(second.next_token)
    assert [job.id for job in third.jobs] == ["vid_24"] and third.next_token == "" and third.searched_to is None


def test_engines_show_ones_own_jobs_alone(service: Service, web: httpx.Client) -> None:
    mine = create(web, prompt="mine " * 50)["id"]
    for job in claim_oldest(service.store, "test", 9, 60.0, 5, (NANO,)):
        assert job.id == mine
    with_others = (mine, "vid_gone")
    now = service.store._db.now()
    service.store.put_engine(EngineRow("engine-0", NANO, 3, 2, now, restarts={"hung": 2}, jobs=with_others))
    (engine,) = web.get("/state").json()["engines"]
    assert (engine["ranks"], engine["restarts"], engine["others"]) == (2, {"hung": 2}, 0)
    assert [job["id"] for job in engine["jobs"]] == [mine] and len(engine["jobs"][0]["prompt"]) == 80

    keys: KeyTable = service.stores.keys
    _, secret = keys.create("browser", "acme")
    (engine,) = web.get("/state", headers={"authorization": f"Bearer {secret}"}).json()["engines"]
    assert (engine["jobs"], engine["others"]) == ([], 1)
    assert {job.state for job in service.store.list("", page_size=1)} == {State.RUNNING}

"""What every door has to take alike: gRPC, the command line, the HTTP APIs and the dashboard's form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import httpx
import pytest

from tests.serving.gateway.harness import MODEL, Service, running_service
from tests.serving.gateway.http.samples import picture
from zoetrope.model.families.wan import NEGATIVE_PROMPT
from zoetrope.model.request.sizes import RATIOS, SIZES
from zoetrope.model.request.tasks import MAX_DRAWN_SEED, MAX_SEED, PICTURE_CONTAINERS
from zoetrope.serving.api.formats import file_name
from zoetrope.serving.cli import main
from zoetrope.serving.gateway.http.replicate.fields import AspectRatio
from zoetrope.serving.jobs.job import JobFilter, Result, State

PROMPT = "a red circle"
Spec = dict[str, Any]
Door = Callable[[Service, dict[str, Any]], None]
# Our names of fields, as the doors call them; the rest has the same name.
REPLICATE = {"ratio": "aspect_ratio", "negative": "negative_prompt", "container": "output_format"}
OPENAI = {"negative": "negative_prompt"}


def post(service: Service, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
    answer = httpx.post(service.http + path, json=body, headers=headers)
    assert answer.is_success, answer.text


def grpc(service: Service, fields: dict[str, Any]) -> None:
    renamed = {{"negative": "negative_prompt"}.get(name, name): value for name, value in fields.items()}
    service.client.create(prompt=PROMPT, **renamed)


def command_line(service: Service, fields: dict[str, Any]) -> None:
    arguments = ["generate", PROMPT, "--server", service.target, "--detach"]
    if "container" in fields:
        fields = {**fields, "out": f"a.{fields['container'].upper()}"}
    for name, value in fields.items():
        if name != "container":
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    assert main(arguments) == 0


def replicate(service: Service, fields: dict[str, Any]) -> None:
    given = {REPLICATE.get(name, name): value for name, value in fields.items()}
    post(service, "/v1/models/wan-video/wan-2.7-t2v/predictions", {"input": {"prompt": PROMPT, **given}})


def replicate_own(service: Service, fields: dict[str, Any]) -> None:
    task = {"kind": "text_to_video", "prompt": PROMPT}
    given = dict(fields)
    if "negative" in given:
        task["negative_prompt"] = given.pop("negative")
    post(service, f"/v1/models/wan-video/{MODEL}/predictions", {"input": {"task": task, **given}})


def openai(service: Service, fields: dict[str, Any]) -> None:
    post(service, "/v1/videos", {"prompt": PROMPT, **{OPENAI.get(name, name): v for name, v in fields.items()}})


def openai_form(service: Service, fields: dict[str, Any]) -> None:
    form = {OPENAI.get(name, name): (None, str(v)) for name, v in {"prompt": PROMPT, **fields}.items()}
    answer = httpx.post(service.http + "/v1/videos", files=form)
    assert answer.is_success, answer.text


def dashscope(service: Service, fields: dict[str, Any]) -> None:
    given, words = dict(fields), {"prompt": PROMPT}
    if "negative" in given:
        words["negative_prompt"] = given.pop("negative")
    body = {"model": "wan2.7-t2v", "input": words, "parameters": given}
    path = "/api/v1/services/aigc/video-generation/video-synthesis"
    post(service, path, body, {"x-dashscope-async": "enable"})


def fal(service: Service, fields: dict[str, Any]) -> None:
    task, given = {"kind": "text_to_video", "prompt": PROMPT}, dict(fields)
    if "negative" in given:
        task["negative_prompt"] = given.pop("negative")
    post(service, f"/zoetrope/{MODEL}", {"task": task, **given})


def dashboard(service: Service, fields: dict[str, Any]) -> None:
    given = {{"negative": "negative_prompt"}.get(name, name): value for name, value in fields.items()}
    post(service, "/dashboard/jobs", {"prompt": PROMPT, **given})


DOORS: dict[str, Door] = {
    door.__name__: door
    for door in (grpc, command_line, replicate, replicate_own, openai, openai_form, dashscope, fal, dashboard)
}
WITH_RATIO = [name for name in DOORS if not name.startswith("openai")]  # OpenAI's API names sizes alone
WITH_PICTURES = ["grpc", "command_line", "replicate", "replicate_own", "fal", "dashboard"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("doors")) as service:
        yield service


def made(service: Service, door: str, **fields: Any) -> Spec:
    """What a request became, less its media."""
    DOORS[door](service, fields)
    (job,) = service.store.list("", page_size=2, where=JobFilter(states=(State.QUEUED,)))
    service.empty_queue()
    return {**job.spec, "warnings": list(job.warnings)}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("size", "pixels"), [("720P", (1280, 720)), ("640*360", (640, 360)), ("640X360", (640, 360))])
def test_sizes_are_taken_as_they_are_written(service: Service, door: str, size: str, pixels: tuple[int, int]) -> None:
    spec = made(service, door, size=size)
    assert (spec["width"], spec["height"]) == pixels
    assert spec["warnings"] == ([] if pixels[1] == 720 else [
        "size: denoised at 640x368, for tiny takes multiples of 16 pixels, and fitted to 640x360"
    ])  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_without_a_size(service: Service, door: str) -> None:
    """The model's own, but for Replicate's models, which have a default themselves."""
    spec = made(service, door)
    assert (spec["width"], spec["height"]) == ((1280, 720) if door == "replicate" else (832, 480))
    assert (spec["fit"], spec["flow_shift"], spec["container"]) == ("cover", 3.0, "mp4")


@pytest.mark.parametrize("door", WITH_RATIO)
@pytest.mark.parametrize("ratio", ["3:2", "9:21"])
def test_ratios(service: Service, door: str, ratio: str) -> None:
    resolution = {"resolution": "480p"} if door == "replicate" else {}
    spec = made(service, door, ratio=ratio, **resolution)
    assert (spec["width"], spec["height"]) == SIZES["480p"][ratio]


@pytest.mark.parametrize("door", DOORS)
def test_negative_prompts(service: Service, door: str) -> None:
    """Not given is the model's own, empty is none."""
    assert made(service, door)["task"]["negative_prompt"] == NEGATIVE_PROMPT
    assert made(service, door, negative="blur")["task"]["negative_prompt"] == "blur"
    if door != "openai_form":  # which has no way to tell an empty field from none
        assert made(service, door, negative="")["task"]["negative_prompt"] == ""


@pytest.mark.parametrize("door", DOORS)
def test_fit_and_flow_shift(service: Service, door: str) -> None:
    spec = made(service, door, fit="contain", flow_shift=7.5)
    assert (spec["fit"], spec["flow_shift"]) == ("contain", 7.5)


@pytest.mark.parametrize("door", DOORS)
def test_sampler_and_span_of_guidance(service: Service, door: str) -> None:
    spec = made(service, door, sampler="dpm++", guidance_start=0.25, guidance_end=0.75)
    assert (spec["sampler"], spec["guidance_start"], spec["guidance_end"]) == ("dpm++", 0.25, 0.75)
    spec = made(service, door, quality="exact")
    assert (spec["sampler"], spec["quality"], spec["guidance_start"], spec["guidance_end"]) == (None, "exact", 0, 1)


@pytest.mark.parametrize("door", [name for name in DOORS if name != "dashscope"])
@pytest.mark.parametrize("seed", [MAX_SEED, 2**53 + 1])
def test_seeds_of_64_bits_and_random_ones(service: Service, door: str, seed: int) -> None:
    assert made(service, door, seed=seed)["seed"] == seed
    if door in ("replicate", "replicate_own", "openai", "fal", "dashboard"):
        assert made(service, door, seed=str(seed))["seed"] == seed
    drawn = [made(service, door, seed=-1)["seed"] for _ in range(2)]
    assert drawn[0] != drawn[1]
    assert all(0 <= seed <= MAX_DRAWN_SEED for seed in drawn)


def test_seeds_are_not_rounded_on_the_way_back(service: Service) -> None:
    """Not in a client whose numbers are floats either: those that it could not hold are texts."""
    path = "/v1/models/wan-video/wan-2.7-t2v/predictions"
    for given, shown in ((2**53 - 1, 2**53 - 1), (2**53 + 1, str(2**53 + 1)), (str(MAX_SEED), str(MAX_SEED)), (-1, -1)):
        answer = httpx.post(service.http + path, json={"input": {"prompt": PROMPT, "seed": given}})
        assert answer.json()["input"] == {"prompt": PROMPT, "seed": shown}
    name = service.client.create(prompt=PROMPT, seed=2**53 + 1, flow_shift=4.0, fit="contain", container="png")
    listed = httpx.get(f"{service.http}/v1/predictions/{name.removeprefix('operations/')}").json()
    assert {field: listed["input"][field] for field in ("seed", "flow_shift", "fit", "output_format")} == {
        "seed": str(2**53 + 1),
        "flow_shift": 4.0,
        "fit": "contain",
        "output_format": "png",
    }
    assert "a picture, 50 steps, guidance 5, flow shift 4, seed 9007199254740993" in listed["logs"]
    again = {**listed["input"], "num_frames": 1}  # an answer's input can be sent as it is
    answer = httpx.post(service.http + path, json={"input": again})
    assert service.job(answer.json()["id"]).spec["seed"] == 2**53 + 1


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("negative", [{}, {"negative_prompt": None}, {"negative_prompt": ""}, {"negative_prompt": "b"}])
def test_what_is_echoed_is_what_was_sent(service: Service, own: bool, negative: dict[str, Any]) -> None:
    words = {"prompt": PROMPT, **negative}
    given = {"task": {"kind": "text_to_video", **words}} if own else words
    path = f"/v1/models/wan-video/{MODEL if own else 'wan-2.7-t2v'}/predictions"
    assert httpx.post(service.http + path, json={"input": given}).json()["input"] == given


@pytest.mark.parametrize("door", WITH_PICTURES)
@pytest.mark.parametrize("container", PICTURE_CONTAINERS)
def test_pictures(service: Service, door: str, container: str) -> None:
    """One frame, though nobody said so."""
    spec = made(service, door, container=container)
    assert (spec["container"], spec["frames"], spec["model_frames"]) == (container, 1, 1)


def test_a_picture_from_every_door(service: Service, tmp_path: Any) -> None:
    """Of one job: its type and name everywhere, and its use as the start of a video."""
    data = picture(832, 480)
    name = service.client.create(prompt=PROMPT, container="png")
    job_id = name.removeprefix("operations/")
    job = service.claim(name)
    key = f"jobs/{job.id}/{job.lease_epoch}/{file_name('png')}"
    result = Result(service.artifacts.put_bytes(key, data, "image/png"), None, 1, 832, 480, 16)
    assert service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)

    info = service.client.get(name).video
    assert info is not None
    assert (info.mime_type, info.frames, info.flow_shift) == ("image/png", 1, 3.0)
    out = tmp_path / "A.PNG"
    assert main(["download", job_id, "--server", service.target, "--out", str(out)]) == 0
    assert out.read_bytes() == data
    assert main(["download", job_id, "--server", service.target, "--out", str(tmp_path / "a.mp4")]) == 2

    prediction = httpx.get(f"{service.http}/v1/predictions").json()["results"][0]
    route = f"{service.http}/v1/predictions/{job_id}/output/picture.png"
    assert prediction["metrics"]["image_count"] == 1
    agent = {"user-agent": "replicate-javascript/1.4.0"}
    inline = httpx.get(f"{service.http}/v1/predictions/{job_id}", headers=agent).json()["output"]
    assert inline.startswith("data:image/png;base64,")
    signed = httpx.get(f"{service.http}/api/v1/tasks/{job_id}").json()["output"]["video_url"]
    addresses = (prediction["output"], route, f"{service.http}/v1/videos/{job_id}/content", signed)
    for address in (*addresses, f"{service.http}/dashboard/jobs/{job_id}/video"):
        answer = httpx.get(address)
        assert (answer.content, answer.headers["content-type"]) == (data, "image/png")
        assert answer.headers["content-disposition"] == f'inline; filename="{job_id}.png"'

    for arguments in ([job_id], [job_id, "--out", "a.png"]):
        assert main(["extend", *arguments, "--server", service.target]) == 2


def test_lists_of_ratios_and_formats_are_complete(service: Service) -> None:
    assert get_args(AspectRatio) == RATIOS
    assert httpx.get(f"{service.http}/dashboard/model").json()["ratios"] == list(RATIOS)
    (model,) = service.client.models()
    assert (model.formats, model.default_size) == (("mp4", "mkv", "png", "webp", "jpg"), "480p")
    assert (model.default_negative_prompt, model.max_seed) == (NEGATIVE_PROMPT, MAX_SEED)
    note = "scheduler_config.json; Wan's own code takes 5"
    assert (model.default_flow_shift, model.flow_shift_note) == (3.0, note)
    assert model.quantize == "none"

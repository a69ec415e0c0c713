"""The replicate SDK's files, outputs and models against a real gateway; the router's part is played by hand."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from replicate.pagination import paginate

from tests.serving.gateway.harness import Service, write_checkpoint
from tests.serving.gateway.http.replicate.kit import (
    EDIT,
    I2V,
    PROMPT,
    R2V,
    T2V,
    VIDEO,
    claim,
    refused,
    router,
    succeed,
)
from tests.serving.gateway.http.samples import picture, sound
from zoetrope.model.catalog.presets import find_model
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.gateway.http.replicate.catalogue import offered_models

# Files.


def test_files(sdk: Any, web: httpx.Client) -> None:
    data = picture()
    made = sdk.files.create(io.BytesIO(data), filename="a b\u00fc.png", metadata={"a": 1})
    assert (made.size, made.content_type, made.name) == (len(data), "image/png", "a b\u00fc.png")
    assert sdk.files.get(made.id) == made
    assert made.id in [file.id for file in sdk.files.list()]
    answer = web.get(f"/v1/files/{made.id}/download")
    assert (answer.content, answer.headers["content-type"]) == (data, "image/png")
    part = web.get(f"/v1/files/{made.id}/download", headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")
    assert sdk.files.delete(made.id)
    refused(lambda: sdk.files.get(made.id), 404)
    refused(lambda: sdk.files.delete(made.id), 404)


def test_files_that_are_refused(service: Service, web: httpx.Client) -> None:
    def post(**parts: Any) -> tuple[int, list[str]]:
        answer = web.post("/v1/files", **parts)
        return answer.status_code, [item["field"] for item in answer.json()["invalid_fields"]]

    content = {"content": ("a.png", picture(), "image/png")}
    assert post(files={"content": ("a.png", b"no picture", "image/png")}) == (422, ["content"])
    assert post(files={"other": ("a.png", picture(), "image/png")}) == (422, ["content"])
    assert post(files=content, data={"metadata": "[]"}) == (422, ["metadata"])
    for metadata in (b"[]", b"{", b"\xff", b" " * 4_001):
        part = ("blob", metadata, "application/json")
        assert post(files={**content, "metadata": part}) == (422, ["metadata"])
    assert post(files=content, data={"colour": "red"}) == (422, ["colour"])
    assert post(json={"content": "x"})[0] in (400, 422)
    large = b"\0" * (service.settings.max_upload_bytes + (2 << 20))
    assert post(files={"content": ("a.png", large, "image/png")})[0] == 413


@pytest.mark.parametrize("strategy", ["url", "base64"])
def test_file_objects_are_inputs(service: Service, sdk: Any, strategy: Any) -> None:
    first, last = io.BytesIO(picture(seed=1)), io.BytesIO(picture(seed=2))
    fields = {**PROMPT, "image": first, "last_frame": last, "audio": io.BytesIO(sound())}
    made = sdk.predictions.create(model=I2V, input=fields, file_encoding_strategy=strategy)
    job = service.job(made.id)
    # 1.0.7 drops the strategy on its way to a model by name.
    task = job.spec["task"]
    assert (task["kind"], len(job.media)) == ("first_last_frame", 3)
    assert {task["first_frame"], task["last_frame"], job.spec["audio"]} == set(job.media)
    assert made.input["image"].startswith(f"{service.http}/v1/files/med_")


def test_data_addresses_are_not_echoed(service: Service, web: httpx.Client) -> None:
    data = "data:image/png;base64," + base64.b64encode(picture()).decode()
    made = web.post("/v1/predictions", json={"model": I2V, "input": {**PROMPT, "image": data}}).json()
    assert service.job(made["id"]).spec["task"]["image"].startswith("med_")
    assert made["input"]["image"] == f"data:image/png;base64,...({len(data) - 22} characters)"


# Output.


def test_output_route(service: Service, sdk: Any, web: httpx.Client) -> None:
    made = sdk.predictions.create(model=T2V, input=PROMPT)
    path = f"/v1/predictions/{made.id}/output/video.mp4"
    assert web.get(path).status_code == 409
    succeed(service, claim(service, made.id))
    (listed,) = [item for item in web.get("/v1/predictions").json()["results"] if item["id"] == made.id]
    assert listed["output"].startswith(f"{service.http}/files/{made.id}/video.mp4?")
    for address in (listed["output"], path):
        whole = web.get(address)
        assert (whole.content, whole.headers["content-type"]) == (VIDEO, "video/mp4")
    assert web.get(listed["output"].replace("video.mp4", "other.mp4")).status_code == 404
    part = web.get(path, headers={"range": "bytes=-5"})
    assert (part.status_code, part.content) == (206, VIDEO[-5:])
    assert web.get(path, headers={"range": f"bytes={len(VIDEO)}-"}).status_code == 416
    assert web.get(path.replace("video.mp4", "other")).status_code == 404


def test_output_whose_file_is_gone(service: Service, sdk: Any, web: httpx.Client) -> None:
    made = sdk.predictions.create(model=T2V, input=PROMPT)
    succeed(service, claim(service, made.id), b"abc")
    result = service.job(made.id).result
    assert result is not None
    service.artifacts.delete([result["video"]["key"]])
    assert web.get(f"/v1/predictions/{made.id}").json()["output"].startswith("http://")


# Models and the account.


def test_models(sdk: Any) -> None:
    models = {model.id: model for page in paginate(sdk.models.list) for model in page}
    assert list(models) == [T2V, I2V, R2V, EDIT, "wan-video/nano"]
    assert sdk.models.get(EDIT).name == "wan-2.7-videoedit"
    assert "wan-video/nano" in refused(lambda: sdk.models.get("someone/else"), 404)
    assert sdk.accounts.current().username == "local"


def test_models_that_the_served_one_cannot_do(tmp_path: Path) -> None:
    card = find_model(str(write_checkpoint(tmp_path / "tiny")))
    assert card.tasks == ("text_to_video",)
    assert [model.id for model in offered_models(ServedModels([card]))] == [T2V, "wan-video/tiny"]


def test_flat_fields_of_the_served_model(service: Service, sdk: Any) -> None:
    made = sdk.predictions.create(model="wan-video/nano", input=PROMPT)
    job = service.job(made.id)
    assert (made.model, made.input, job.spec["task"]["kind"]) == ("wan-video/nano", PROMPT, "text_to_video")
    own = service.job(service.client.create(prompt="a red circle").removeprefix("operations/")).spec
    assert [job.spec[name] for name in ("width", "height", "frames")] == [own[n] for n in ("width", "height", "frames")]
    made = sdk.predictions.create(model="wan-video/nano", input={"image": io.BytesIO(picture()), "steps": 4})
    spec = service.job(made.id).spec
    assert (spec["task"]["kind"], spec["steps"]) == ("image_to_video", 4)


def test_a_public_name_is_echoed(service: Service, sdk: Any, web: httpx.Client) -> None:
    name = "wavespeedai/wan-2.1-i2v-480p"
    fields = {
        **PROMPT,
        "image": io.BytesIO(picture()),
        "max_area": "832x480",
        "fast_mode": "Balanced",
        "sample_steps": 4,
    }
    with router(service):
        output = sdk.run(name, input=fields)
    assert output.read() == VIDEO
    (shown,) = (item for item in web.get("/v1/predictions").json()["results"] if item["model"] == name)
    assert "fast_mode changes nothing" in shown["logs"]
    assert shown["input"].keys() == fields.keys()
    assert any("fast_mode" in warning for warning in service.job(shown["id"]).warnings)
    model = sdk.models.get(name)
    assert (model.owner, model.name) == ("wavespeedai", "wan-2.1-i2v-480p")
    fields["image"] = io.BytesIO(picture())
    made = sdk.predictions.create(version=f"{name}:{model.latest_version.id}", input=fields)
    assert made.model == name


def test_own_fields(service: Service, sdk: Any) -> None:
    task = {"kind": "image_to_video", "prompt": "a circle", "image": io.BytesIO(picture()), "loop": True}
    made = sdk.predictions.create(model="wan-video/nano", input={"task": task, "size": "40x24", "steps": 4})
    spec = service.job(made.id).spec
    assert (spec["task"]["loop"], spec["steps"], spec["width"]) == (True, 4, 40)
    assert made.input["task"]["prompt"] == "a circle"
    detail = refused(lambda: sdk.predictions.create(model="wan-video/nano", input={"task": task, "stepz": 4}), 422)
    assert detail.startswith("input.stepz: ")

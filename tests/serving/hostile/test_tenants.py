"""Two tenants: every RPC and every endpoint that takes an id, tried with the other one's."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
import httpx
import pytest

from tests.serving.gateway.http.samples import picture
from tests.serving.hostile.grpc_fuzz import methods
from tests.serving.hostile.kit import VIDEO, Target, finished_job, target
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, video_pb2
from zoetrope.serving.client import VideoClient
from zoetrope.serving.jobs.job import JobFilter

IDS = ("prediction_id", "video_id", "task_id", "job_id", "file_id", "request_id")
# Ids in the path that are no secrets of a tenant: models, and policies, which are their own key.
OTHERS = ("owner", "name", "version_id", "model", "filename", "policy", "app", "alias", "grant")


@dataclass
class Two:
    """Ada's things, and Bob, who has none and tries."""

    found: Target
    keys: dict[str, str]
    done: str  # ids
    waiting: str
    file: str
    upload: str  # that is not complete

    def web(self, who: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.found.service.http,
            headers={"authorization": f"Bearer {self.keys[who]}", "x-dashscope-async": "enable"},
            timeout=30,
        )

    def metadata(self, who: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.keys[who]}"),)

    def state(self) -> object:
        """All that Ada has."""
        stores = self.found.service.stores
        jobs = stores.jobs.list("ada", page_size=100)
        media = [(m.id, m.state, m.received_bytes, m.key) for m in stores.media.list("ada", 100)]
        return jobs, media, [stores.jobs.events(job.id, "ada") for job in jobs]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with target(tmp_path_factory.mktemp("tenants"), keys="required") as found:
        keys = {who: found.service.stores.keys.create(who, who)[1] for who in ("ada", "bob")}
        with VideoClient(found.service.target, api_key=keys["ada"]) as ada:
            done = ada.create(prompt="secret of Ada", webhook="https://example.com/hook").removeprefix("operations/")
            finished_job(found.service, done)
            waiting = ada.create(prompt="secret of Ada").removeprefix("operations/")
            file = ada.upload(picture()).name.removeprefix("media/")
        request = media_pb2.CreateMediaRequest(size_bytes=10, sha256="0" * 64)
        create = found.service.channel.unary_unary(
            "/zoetrope.video.v1.MediaService/CreateMedia",
            media_pb2.CreateMediaRequest.SerializeToString,
            media_pb2.MediaFile.FromString,
        )
        upload = create(request, metadata=(("authorization", f"Bearer {keys['ada']}"),)).name.removeprefix("media/")
        yield Two(found, keys, done, waiting, file, upload)
        assert found.errors() == []


def test_every_endpoint_with_an_id(two: Two) -> None:
    document = httpx.get(f"{two.found.service.http}/openapi.json").json()
    before, tried = two.state(), 0
    body = {"input": {"prompt": "x"}, "prompt": "x", "model": "wan2.7-t2v"}
    with two.web("bob") as bob:
        for path, operations in document["paths"].items():
            names = re.findall(r"\{(\w+)\}", path)
            assert set(names) <= {*IDS, *OTHERS}, f"{path} has a parameter that this test does not know"
            for method in operations if set(names) & set(IDS) else ():
                for value in (two.done, two.waiting, two.file, two.upload):
                    where = re.sub(r"\{(\w+)\}", lambda m: value if m[1] in IDS else "video.mp4", path)  # noqa: B023
                    json = {"prompt": "x"} if path.endswith("remix") else body
                    answer = bob.request(method.upper(), where, json=json)
                    wanted = 403 if path.startswith("/files/") else 404  # which takes a signature and no key
                    assert answer.status_code == wanted, (method, where, answer.text)
                    assert "secret of" not in answer.text
                    unknown = re.sub(r"(vid|med)_[a-z2-7]+", lambda m: m[1] + "_" + "a" * 24, where)
                    same = bob.request(method.upper(), unknown, json=json)
                    assert same.status_code == wanted, "an id that nobody has looks the same"
                    tried += 1
    assert tried >= 60
    assert two.state() == before


def test_bodies_that_name_what_is_not_theirs(two: Two) -> None:
    http, before = two.found.service.http, two.state()
    address = f"{http}/v1/predictions/{two.done}/output/video.mp4"
    synthesis = "/api/v1/services/aigc/video-generation/video-synthesis"
    replicate = "/v1/models/wan-video/wan-2.7-i2v/predictions"
    bodies: list[tuple[str, Any]] = [
        ("/v1/videos/edits", {"prompt": "x", "video": {"id": two.done}}),
        ("/v1/videos", {"prompt": "x", "input_reference": {"file_id": two.file}}),
        ("/v1/videos", {"prompt": "x", "input_reference": {"file_id": two.upload}}),
        ("/v1/videos", {"prompt": "x", "input_reference": {"file_id": f"../media/{two.file}"}}),
        (replicate, {"input": {"first_frame": two.file}}),
        (replicate, {"input": {"first_frame": f"media/{two.file}"}}),
        (replicate, {"input": {"first_frame": f"{http}/v1/files/{two.file}"}}),
        (replicate, {"input": {"first_frame": f"{http}/v1/files/{two.file}/download"}}),
        (replicate, {"input": {"first_clip": address}}),
        (replicate, {"input": {"first_clip": f"operations/{two.done}"}}),
        (
            "/v1/predictions",
            {"version": "wan-video/nano", "input": {"task": {"kind": "image_to_video", "image": two.file}}},
        ),
        (synthesis, {"model": "wan2.7-i2v", "input": {"img_url": "oss://zoetrope/0/a.png"}}),
        ("/dashboard/jobs", {"prompt": "x", "image": f"media/{two.file}"}),
    ]
    with two.web("bob") as bob:
        for path, body in bodies:
            answer = bob.post(path, json=body)
            assert answer.status_code == 404, (path, body, answer.text)
        after = bob.get("/v1/videos", params={"after": two.done})
        assert after.status_code == 400 and "is not a known video" in after.text
    assert two.state() == before
    assert two.found.service.store.list("bob", page_size=10) == []


def test_every_rpc_with_a_name(two: Two) -> None:
    """Found by the descriptors, so that a new one is tried too."""
    before, tried = two.state(), set()
    for method in methods():
        if not method.path.startswith(("/zoetrope", "/google.longrunning")):
            continue
        fields = {field.name for field in method.request.DESCRIPTOR.fields}
        if "name" not in fields or method.path.endswith("ListOperations"):
            continue
        media = ".MediaService/" in method.path
        for value in (two.done, two.waiting, two.file, two.upload):
            request = method.request(name=f"media/{value}" if media else f"operations/{value}")
            kind = f"{'stream' if method.sends_many else 'unary'}_{'stream' if method.gets_many else 'unary'}"
            sent: Any = iter([request]) if method.sends_many else request
            with pytest.raises(grpc.RpcError) as caught:
                call = getattr(two.found.service.channel, kind)(method.path, method.request.SerializeToString, bytes)
                answer = call(sent, metadata=two.metadata("bob"), timeout=20)
                list(answer) if method.gets_many else answer
            assert caught.value.code().name == "NOT_FOUND", (method.path, value, caught.value)
            assert "secret of" not in str(caught.value)
        tried.add(method.path.rpartition("/")[2])
    assert {"GetOperation", "DeleteOperation", "WatchVideo", "DownloadVideo", "ExtendVideo", "WriteMedia"} <= tried
    assert len(tried) >= 13
    assert two.state() == before


def test_messages_that_name_what_is_not_theirs(two: Two) -> None:
    create = two.found.service.videos.CreateVideo
    sources: dict[str, dict[str, Any]] = {
        "name": {"name": f"media/{two.file}"},
        "uploading": {"name": two.upload},
        "video": {"video": f"operations/{two.done}"},
        "uri": {"uri": f"media/{two.file}"},
    }
    for source in sources.values():
        medium = media_pb2.Media(**source)
        tasks: list[dict[str, Any]] = [
            {"image_to_video": video_pb2.ImageToVideo(image=medium)},
            {"edit_video": video_pb2.EditVideo(prompt="x", video=medium)},
            {"reference_to_video": video_pb2.ReferenceToVideo(prompt="x", references=[medium])},
            {"text_to_video": video_pb2.TextToVideo(prompt="x"), "audio": medium},
        ]
        for task in tasks:
            with pytest.raises(grpc.RpcError) as caught:
                create(video_pb2.CreateVideoRequest(**task), metadata=two.metadata("bob"))
            assert caught.value.code().name == "NOT_FOUND", (source, task, caught.value)
    assert two.found.service.store.list("bob", page_size=10) == []


def test_lists_show_none(two: Two) -> None:
    with two.web("bob") as bob, two.web("ada") as ada:
        for path, key in (("/v1/predictions", "results"), ("/v1/videos", "data"), ("/v1/files", "results")):
            assert bob.get(path).json()[key] == [] != ada.get(path).json()[key]
        assert bob.get("/api/v1/tasks").json()["total"] == 0 != ada.get("/api/v1/tasks").json()["total"]
        assert bob.get("/dashboard/state").json()["jobs"] == [] != ada.get("/dashboard/state").json()["jobs"]
        assert bob.get("/v1/webhooks/default/secret").json() != ada.get("/v1/webhooks/default/secret").json()
        # A token of Ada's list, which holds an id of hers.
        ids = [job.id for job in two.found.service.store.list("ada", page_size=10)]
    with VideoClient(two.found.service.target, api_key=two.keys["ada"]) as client:
        token = client.list(page_size=1).next_page_token
        assert token and client.list(page_size=1, page_token=token)
    with VideoClient(two.found.service.target, api_key=two.keys["bob"]) as client:
        assert client.list(page_token=token).operations == () == client.list().operations
        assert client.list_media().media == ()
        assert all(job_id not in repr(client.list(filter="state=succeeded")) for job_id in ids)


def test_an_idempotency_key_of_theirs_is_free(two: Two) -> None:
    with two.web("ada") as ada, two.web("bob") as bob:
        made = [
            web.post("/v1/videos", json={"prompt": who}, headers={"idempotency-key": "same"}).json()
            for who, web in (("ada", ada), ("bob", bob))
        ]
        assert made[0]["id"] != made[1]["id"] and made[1]["prompt"] == "bob"
        assert bob.delete(f"/v1/videos/{made[1]['id']}").status_code == 200
        assert ada.get(f"/v1/videos/{made[0]['id']}").json()["status"] == "queued"
        ada.delete(f"/v1/videos/{made[0]['id']}")


def test_a_signed_address_opens_its_own_job_alone(two: Two) -> None:
    with two.web("ada") as ada:
        address = ada.get(f"/api/v1/tasks/{two.done}").json()["output"]["video_url"]
    assert httpx.get(address).content == VIDEO
    parts = urlsplit(address)
    given = {name: values[0] for name, values in parse_qs(parts.query).items()}
    base, soon = f"{two.found.service.http}/files", str(int(time.time()) + 9_999_999)
    wrong: list[tuple[str, dict[str, str]]] = [
        (two.waiting, given),
        ("vid_" + "a" * 24, given),
        (two.done, {}),
        (two.done, {**given, "expires": soon}),
        (two.done, {**given, "expires": "-1"}),
        (two.done, {**given, "expires": "9" * 40}),
        (two.done, {**given, "expires": given["expires"] + ".0"}),
        (two.done, {**given, "expires": "٣"}),
        (two.done, {**given, "signature": ""}),
        (two.done, {**given, "signature": given["signature"][:-1]}),
        (two.done, {**given, "signature": given["signature"].swapcase()}),
        (two.done, {**given, "signature": given["signature"] + "="}),
        (two.done, {**given, "signature": "\0é"}),
        (two.done + "%0a", given),
    ]
    for job_id, query in wrong:
        answer = httpx.get(f"{base}/{job_id}", params=query)
        assert answer.status_code == 403 and VIDEO[:50] not in answer.content, (job_id, query)


def test_an_upload_policy_is_its_owners(two: Two) -> None:
    with two.web("ada") as ada, two.web("bob") as bob:
        mine, theirs = (web.get("/api/v1/uploads", params={"action": "getPolicy"}).json()["data"] for web in (ada, bob))
    forged = theirs["upload_host"].replace(theirs["policy"], mine["policy"])
    file = {"file": ("a.png", picture(seed=5))}
    # Ada's policy with the signature of Bob's; Bob's policy with a key in Ada's folder; the signature of a video.
    assert httpx.post(forged, data={"key": mine["upload_dir"] + "/a"}, files=file).status_code == 403
    for key in (mine["upload_dir"] + "/a", f"{theirs['upload_dir']}x/a", "a", "", theirs["upload_dir"]):
        assert httpx.post(theirs["upload_host"], data={"key": key}, files=file).status_code == 400, key
    assert two.found.service.stores.media.list("bob", 10) == []
    key = theirs["upload_dir"] + "/../../a"
    assert httpx.post(theirs["upload_host"], data={"key": key}, files=file).status_code == 200
    assert [media.owner for media in two.found.service.stores.media.list("bob", 10)] == ["bob"]
    again = httpx.post(theirs["upload_host"], data={"key": key}, files=file)
    assert again.status_code == 409
    with two.web("ada") as ada:
        body = {"model": "wan2.7-i2v", "input": {"img_url": f"oss://{key}"}}
        answer = ada.post("/api/v1/services/aigc/video-generation/video-synthesis", json=body)
        assert answer.status_code == 404, "what Bob uploaded is not Ada's"


def test_operations_of_others_in_a_batch(two: Two) -> None:
    """One that is not theirs, and nothing is stored."""
    theirs = video_pb2.ImageToVideo(clip=media_pb2.Media(video=f"operations/{two.done}"))
    requests = [
        video_pb2.CreateVideoRequest(text_to_video=video_pb2.TextToVideo(prompt="x")),
        video_pb2.CreateVideoRequest(image_to_video=theirs),
    ]
    with pytest.raises(grpc.RpcError) as caught:
        two.found.service.videos.BatchCreateVideos(
            video_pb2.BatchCreateVideosRequest(requests=requests), metadata=two.metadata("bob")
        )
    assert caught.value.code().name == "NOT_FOUND"
    assert two.found.service.store.list("bob", page_size=10, where=JobFilter(model="nano", labels={"a": "b"})) == []
    assert not [job for job in two.found.service.store.list("bob", page_size=10) if not job.state.final]

"""Files of the DashScope API: uploads through its policies, and addresses of videos that need no key."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from dashscope.aigc.video_synthesis import VideoSynthesis
from dashscope.common.error import UploadFileException
from moto.server import ThreadedMotoServer

from tests.serving.gateway.harness import Service, running_service
from tests.serving.gateway.http.dashscope.kit import (
    VIDEO,
    claim,
    created,
    job_of,
    refused,
    succeed,
    use_sdk,
)
from tests.serving.gateway.http.samples import picture
from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.common.signing import Signer


def test_local_files_go_through_the_policy(service: Service, tmp_path: Path) -> None:
    for name, content in (("first frame.png", picture()), ("last.png", picture(seed=1))):
        (tmp_path / name).write_bytes(content)
    media = [
        {"type": "first_frame", "url": f"file://{tmp_path}/first frame.png"},
        {"type": "last_frame", "url": str(tmp_path / "last.png")},
    ]
    spec = job_of(service, created(model="wan2.7-i2v", media=media)).spec
    stored = [service.stores.media.get(spec["task"][field], "") for field in ("first_frame", "last_frame")]
    assert [row.filename for row in stored if row is not None] == ["first frame.png", "last.png"]
    keys = [row.key for row in stored if row is not None and row.key is not None]
    assert [b"".join(service.artifacts.read(key)) for key in keys] == [picture(), picture(seed=1)]
    assert media[0]["url"].startswith("oss://")  # the SDK writes it there
    again = created(model="wan2.7-i2v", media=[{"type": "first_frame", "url": media[0]["url"]}])
    assert job_of(service, again).spec["task"]["image"] == spec["task"]["first_frame"]
    nobodys = refused(404, model="wan2.7-i2v", img_url="oss://zoetrope/nothing/there.png")
    assert nobodys.code == "InvalidURL" and "input.img_url" in nobodys.message
    (tmp_path / "notes.png").write_text("no picture")
    with pytest.raises(UploadFileException):
        VideoSynthesis.async_call("wan2.7-i2v", "x", img_url=str(tmp_path / "notes.png"))


def test_policies_are_ours_for_one_folder_and_a_while(service: Service) -> None:
    url = f"{service.http}/api/v1/uploads"
    policy = httpx.get(url, params={"action": "getPolicy"}).json()["data"]
    key = f"{policy['upload_dir']}/a.png"

    def post(host: str, key: str) -> httpx.Response:
        return httpx.post(host, data={"key": key}, files={"file": ("a.png", picture())})

    host = policy["upload_host"]
    other = httpx.get(url, params={"action": "getPolicy"}).json()["data"]
    assert post(host, f"{other['upload_dir']}/a.png").json()["code"] == "InvalidParameter"
    for wrong in (
        host.replace(policy["policy"], other["policy"]),
        host.replace("expires=", "expires=9"),
        host[:-1] + ("A" if host[-1] != "A" else "B"),
        host.partition("?")[0],
    ):
        assert post(wrong, key).status_code == 403
    assert post(host, key).status_code == 200
    assert post(host, key).status_code == 409
    assert httpx.post(host, data={"key": key}).json()["message"].startswith("file: is missing")
    assert httpx.get(url).status_code == 400


def test_signed_addresses_are_good_for_one_video(service: Service) -> None:
    urls = []
    for _ in range(2):
        answer = created()
        succeed(service, claim(service))
        urls.append(VideoSynthesis.fetch(answer).output.video_url)
    parts = urlsplit(urls[0])
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    address = f"{service.http}{parts.path}"
    assert httpx.get(address, params=query).status_code == 200
    other = f"{service.http}{urlsplit(urls[1]).path}"
    past = str(int(time.time()) - 1)
    for target, params in (
        (other, query),
        (address, {}),
        (address, {**query, "expires": str(int(query["expires"]) + 1)}),
        (address, {**query, "expires": past}),
        (address, {**query, "signature": ""}),
        (address, {**query, "signature": "ü" + query["signature"][1:]}),
        (address, {**query, "expires": "²"}),
    ):
        refusal = httpx.get(target, params=params)
        assert (refusal.status_code, refusal.json()["code"]) == (403, "AccessDenied")
    assert float(query["expires"]) <= time.time() + 86_400 + 1
    job_id = parts.path.rpartition("/")[2]
    job = service.store.delete(job_id, "")
    assert job is not None
    assert httpx.get(address, params=query).status_code == 404


def test_a_signature_ends_and_is_for_one_purpose() -> None:
    mine, other = Signer(b"key"), Signer(b"another key")
    signature = mine.sign("video", "vid_a", 1_000)
    assert signature == "0pQV_53fNS4LZYF-PXMFUIv77BWlXVSy4Vvv5yuZgQI", "URLs of earlier versions stay good"
    mine.check("video", "vid_a", "1000", signature, 999.9)
    for signed_by, purpose, subject, expires, now in (
        (mine, "video", "vid_a", "1000", 1_000.0),
        (mine, "upload", "vid_a", "1000", 0.0),
        (mine, "video", "vid_b", "1000", 0.0),
        (mine, "video", "vid_a", "1001", 0.0),
        (other, "video", "vid_a", "1000", 0.0),
    ):
        with pytest.raises(ApiError) as caught:
            signed_by.check(purpose, subject, expires, signature, now)
        assert caught.value.http_status == 403


@pytest.mark.integration
def test_a_bucket_signs_addresses_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    httpx.put(f"http://{host}:{port}/bucket").raise_for_status()
    store = f"s3://bucket/x?endpoint=http://{host}:{port}"
    try:
        with running_service(tmp_path, model="nano", artifact_store=store) as service:
            use_sdk(service, monkeypatch)
            answer = created()
            succeed(service, claim(service))
            url = VideoSynthesis.fetch(answer).output.video_url
            assert url.startswith(f"http://{host}:{port}/bucket/x/jobs/") and "X-Amz-Signature" in url
            assert httpx.get(url).content == VIDEO
    finally:
        server.stop()

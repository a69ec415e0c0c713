"""Uploads by fal's client for Python, and what becomes of the URLs that it gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fal_client
import httpx
import pytest

from tests.serving.gateway.harness import Service
from tests.serving.gateway.http.fal.kit import EDIT, I2V, PROMPT, WEB, refused, router, succeed
from tests.serving.gateway.http.samples import clip, picture
from zoetrope.serving.jobs.job import Job


@pytest.mark.parametrize("repository", ["fal_v3", "fal"])
def test_upload(service: Service, fal: fal_client.SyncClient, repository: Any, tmp_path: Path) -> None:
    """By both ways that the client has, neither of which falls back to the other."""
    path = tmp_path / "a b.png"
    path.write_bytes(picture(seed=len(repository)))
    url = fal.upload_file(path, repository=repository, fallback_repository=repository)
    assert url.startswith(f"{service.http}/fal/files/med_") and url.endswith("/a%20b.png")
    assert WEB.get(url).content == path.read_bytes()
    handle = fal.submit(I2V, {**PROMPT, "image_url": url})
    assert service.job(handle.request_id).media == (url.split("/")[-2],)  # it is not fetched


async def test_the_async_client(service: Service) -> None:
    url = await fal_client.AsyncClient(key="none").upload(picture(seed=9), "image/png")
    assert url.endswith("/file")
    assert WEB.get(url).content == picture(seed=9)


def test_a_result_as_an_input(service: Service, fal: fal_client.SyncClient) -> None:
    def act(service: Service, job: Job) -> None:
        succeed(service, job, clip(fps=8))

    with router(service, act):
        video = fal.subscribe("fal-ai/wan/v2.7/text-to-video", PROMPT)["video"]
    handle = fal.submit(EDIT, {**PROMPT, "video_url": video["url"]})
    assert len(service.job(handle.request_id).media) == 1
    found = refused(service, EDIT, video_url=f"{service.http}/fal/files/med_x/a.mp4")
    assert found == {"body.video_url": "'media/med_x' is not a known file that is ready"}


def initiated(**body: Any) -> Any:
    answer = WEB.post(f"{fal_client.client.REST_URL}/storage/upload/initiate", json=body)
    assert answer.is_success, answer.text
    return answer.json()


@pytest.mark.parametrize("name", [".", "..", "%2E%2e", ""])
def test_names_that_clients_take_for_steps(service: Service, name: str) -> None:
    grant = initiated(file_name=name)
    assert grant["file_url"].endswith("/file")
    assert WEB.put(grant["upload_url"], content=picture()).is_success
    assert WEB.get(grant["file_url"]).content == picture()


def test_an_upload_address_is_good_for_one_file(service: Service) -> None:
    grant = initiated(file_name="../x/é.png", content_type="image/png")
    assert grant["file_url"].endswith("/.._x_%C3%A9.png")
    address = httpx.URL(grant["upload_url"])
    for change in ({"signature": "x"}, {"expires": "1"}, {"expires": str(2**40)}):
        answer = WEB.put(address.copy_merge_params(change), content=picture())
        assert answer.status_code == 403, answer.text
    answer = WEB.put(address, content=b"no picture")
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body"])
    answer = WEB.put(address, content=b"x" * 100_001)
    assert (answer.status_code, answer.json()["detail"]) == (413, "body: more than the 100000 bytes that are allowed")
    answer = WEB.put(address, content=(b"x" * 50_000 for _ in range(3)))  # in chunks, without a length
    assert answer.status_code == 413
    assert WEB.put(address, content=b"").status_code == 422
    assert WEB.put(address, content=picture()).json() == {}
    answer = WEB.put(address, content=picture(seed=1))
    assert (answer.status_code, answer.json()["detail"]) == (400, "a file was uploaded here before")
    assert WEB.get(grant["file_url"]).content == picture()


def test_bad_requests(service: Service) -> None:
    for path in ("storage/upload/initiate-multipart", "files/upload/multipart"):
        answer = WEB.post(f"{service.http}/fal/rest/{path}", json={})
        assert answer.status_code == 413
        assert "sends in parts" in answer.json()["message"] and "100000 bytes" in answer.json()["message"]
    answer = WEB.post(f"{service.http}/fal/rest/storage/upload/initiate", json={"file_name": "x" * 2_000})
    assert answer.json()["detail"][0]["loc"] == ["body", "file_name"]
    assert WEB.post(f"{service.http}/fal/rest/files/upload", content=b"text").status_code == 422
    assert WEB.get(f"{service.http}/fal/files/med_x/a").status_code == 404


def test_the_proxy_leads_nowhere_else(service: Service) -> None:
    url = f"{service.http}/fal/proxy"
    for target in (
        "",
        "x",
        "https://queue.fal.run.evil.com/fal-ai/x",
        "http://127.0.0.1/",
        "https://[",
        "https://fal.runé/",
    ):
        answer = WEB.post(url, json={}, headers=[(b"x-fal-target-url", target.encode())])
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["header", "x-fal-target-url"]), target
    for path in ("", "/", "/v1/videos", "/fal/proxy", "/dashboard", "/fal-ai2/x", "//v1/videos"):
        answer = WEB.get(url, headers={"x-fal-target-url": f"https://queue.fal.run{path}"})
        assert answer.status_code == 404, path
    for path in ("/../v1/videos", "/fal-ai/../v1/videos", "/%2e%2e/v1/videos"):
        answer = WEB.get(url, headers={"x-fal-target-url": f"https://fal.run{path}"})
        assert answer.status_code in (404, 405), path
    assert WEB.get(url, headers={"x-fal-target-url": "https://rest.fal.ai/x"}).status_code == 404

"""Addresses and methods that are not there, as clients meet them whose base URL is wrong."""

from __future__ import annotations

import httpx
import openai
import pytest

from tests.serving.gateway.harness import Service

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("", "OpenAI's clients need a base URL with /v1 at the end: {http}/v1"),
        ("/v1/v1", "the client adds /v1 itself: set its base URL to {http}"),
    ],
)
def test_a_wrong_base_url_is_told(service: Service, base: str, says: str) -> None:
    with openai.OpenAI(base_url=service.http + base, api_key="none", max_retries=0) as sdk:
        for call in (lambda: sdk.videos.create(prompt="x"), lambda: sdk.videos.retrieve("vid_1"), sdk.models.list):
            with pytest.raises(openai.NotFoundError) as caught:
                call()
            body = caught.value.body
            assert isinstance(body, dict) and body["code"] == "not_found"
            assert says.format(http=service.http) in body["message"]


@pytest.mark.parametrize("path", ["chat/completions", "images/generations", "responses", "embeddings"])
def test_other_work_is_refused(web: httpx.Client, path: str) -> None:
    answer = web.post(f"/v1/{path}", json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].endswith("this service makes videos: POST /v1/videos")


def test_a_method_that_an_address_does_not_take(web: httpx.Client) -> None:
    answer = web.put("/v1/videos", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert answer.json()["error"]["message"] == "'/v1/videos' does not take PUT; it takes GET, HEAD, POST"
    sync = web.post("/v1/videos/sync", files={"prompt": (None, "x")})
    assert sync.status_code == 405 and "GET /v1/videos/{video_id}" in sync.json()["error"]["message"]


def test_addresses_of_nobody_stay_plain(web: httpx.Client) -> None:
    assert web.get("/nothing").json() == {"error": "Not Found"}
    unknown = web.get("/v1/nothing").json()
    assert unknown["error"]["message"] == unknown["detail"], "Replicate's clients read the second"
    assert "openapi.json" in unknown["detail"]

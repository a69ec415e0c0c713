"""Gateways that want keys, and one with TLS, where two variables of the environment move fal's client."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fal_client
import httpx
import pytest
from standardwebhooks import Webhook

from tests.serving.gateway.harness import Collector, Service, running_service, until
from tests.serving.gateway.http.fal.kit import I2V, PROMPT, T2V, VIDEO, WEB, claim, fail, move, router, succeed
from tests.serving.gateway.http.replicate.kit import certificate
from tests.serving.gateway.http.samples import picture
from tests.serving.outbound.receiver import Answer, receiving
from zoetrope.serving.jobs.job import Job
from zoetrope.serving.outbound import Guard
from zoetrope.serving.sweeper.sender import Sender

SOON = 5.0  # seconds
ENVIRONMENT = """
import fal_client
result = fal_client.subscribe("fal-ai/wan/v2.7/text-to-video", {"prompt": "a red circle"})
assert fal_client.run("fal-ai/wan/v2.7/text-to-video", {"prompt": "a red circle"})["video"]
print(result["video"]["url"])
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    changes = {"keys": "required", "allow_networks": ("127.0.0.0/8",), "served_model_name": ("acme/video-1",)}
    with running_service(tmp_path_factory.mktemp("keys"), model="nano", **changes) as running:
        yield running


def key_of(service: Service, owner: str) -> str:
    return service.stores.keys.create(owner, owner)[1]


def refused(client: fal_client.SyncClient, app: str, arguments: dict[str, Any]) -> tuple[int, str]:
    with pytest.raises(fal_client.client.FalClientHTTPError) as caught:
        client.submit(app, arguments)
    return caught.value.status_code, str(caught.value)


def test_tenants(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    move(service.http, monkeypatch)
    ada, bob = (fal_client.SyncClient(key=key_of(service, owner)) for owner in ("ada", "bob"))
    url = ada.upload(picture(), "image/png")
    handle = ada.submit(I2V, {**PROMPT, "image_url": url})
    assert WEB.get(url).status_code == 401
    assert refused(bob, I2V, {**PROMPT, "image_url": url})[0] == 422
    assert refused(fal_client.SyncClient(key="zk_wrong"), T2V, PROMPT) == (
        401,
        "the API key is not known or was revoked",
    )
    for path in ("", "/status", "/status/stream"):
        answer = WEB.get(handle.response_url + path, headers={"authorization": f"Key {bob.key}"})
        assert answer.status_code == 404, path
    assert WEB.put(handle.cancel_url, headers={"authorization": f"Key {bob.key}"}).status_code == 404
    succeed(service, claim(service, handle.request_id))
    video = handle.get()["video"]["url"]
    assert WEB.get(video).content == VIDEO
    assert refused(bob, "fal-ai/wan/v2.7/edit-video", {**PROMPT, "video_url": video})[0] == 422


def test_what_waits_ends_with_its_key(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    move(service.http, monkeypatch)
    key, secret = service.stores.keys.create("eve", "eve")
    headers = {"authorization": f"Key {secret}"}
    grant = WEB.post(f"{service.http}/fal/rest/storage/upload/initiate", json={}, headers=headers).json()
    handle = fal_client.SyncClient(key=secret).submit(T2V, PROMPT)

    def events() -> Iterator[str]:
        with WEB.stream("GET", f"{handle.status_url}/stream", headers=headers) as answer:
            yield from answer.iter_lines()

    seen = Collector(events())
    answers: list[httpx.Response] = []
    waits = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{service.http}/fal/run/{T2V}", json=PROMPT, headers=headers))
    )
    waits.start()
    until(lambda: seen.seen and len(service.store.list("eve", page_size=9)) == 2)
    revoked = time.monotonic()
    service.stores.keys.revoke(key.id)
    seen.join()
    waits.join(timeout=SOON)
    assert time.monotonic() - revoked < SOON
    assert [answer.status_code for answer in answers] == [401]
    assert not any("COMPLETED" in line for line in seen.seen)
    assert WEB.put(grant["upload_url"], content=picture()).status_code == 403
    for job in service.store.list("eve", page_size=9):
        service.store.request_cancel(job.id, "eve")


def test_the_served_model_by_another_name(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    move(service.http, monkeypatch)
    client = fal_client.SyncClient(key=key_of(service, "amy"))
    handle = client.submit("zoetrope/acme/video-1", {"task": {"kind": "text_to_video", "prompt": "a"}})
    assert handle.status_url == f"{service.http}/zoetrope/acme/requests/{handle.request_id}/status"
    succeed(service, claim(service, handle.request_id))
    assert client.result("zoetrope/acme/video-1", handle.request_id)["prompt"] == "a"
    assert "zoetrope/nano, zoetrope/acme/video-1, fal-ai" in refused(client, "zoetrope/other", PROMPT)[1]


async def test_webhooks(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As fal's clients expect them, signed as ours are; who gets one needs no key for the video."""
    move(service.http, monkeypatch)
    client = fal_client.SyncClient(key=key_of(service, "hal"))
    secret = service.stores.outbox.secret("hal")
    got: list[dict[str, object]] = []

    def receive(headers: dict[str, str], body: bytes) -> Answer:
        got.append(Webhook(secret).verify(body, headers))
        return Answer()

    sender = Sender(service.stores, Guard(allow=("127.0.0.0/8",)), service.http)
    with receiving(receive) as url:
        for act in (succeed, fail):
            handle = client.submit(T2V, PROMPT, webhook_url=url)
            job: Job = claim(service, handle.request_id)
            act(service, job)
            await sender.send_due()
            await sender.drain()
    done, failed = got
    assert (done["status"], done["gateway_request_id"]) == ("OK", done["request_id"])
    payload = done["payload"]
    assert isinstance(payload, dict)
    assert WEB.get(payload["video"]["url"]).content == VIDEO
    assert (failed["status"], failed["error"]) == ("ERROR", "Unexpected status code: 500")
    assert isinstance(failed["payload"], dict)
    assert failed["payload"]["detail"][0]["msg"] == "the picture fell off the wall"


@pytest.mark.integration
def test_the_environment_is_enough_over_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with running_service(tmp_path, model="nano", keys="required", tls_cert=cert, tls_key=key) as service:
        host = service.gateway.bound["http"]
        env = {"FAL_KEY": key_of(service, "ada"), "FAL_QUEUE_RUN_HOST": host, "FAL_RUN_HOST": f"{host}/fal/run"}
        env |= {**os.environ, **env, "SSL_CERT_FILE": str(cert)}
        with router(service):
            done = subprocess.run(
                [sys.executable, "-c", ENVIRONMENT], env=env, capture_output=True, text=True, check=False, timeout=60
            )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"https://{host}/files/vid_")

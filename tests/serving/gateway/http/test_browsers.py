"""Pages of other sites and a gateway that asks for no keys."""

from __future__ import annotations

import httpx
import pytest

from tests.serving.gateway.harness import Service
from zoetrope.serving.jobs.key_table import KeyTable

EVIL = [
    "0.0.0.0:8080",
    "[::]",
    "evil.example",
    "evil.example:8080",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "[::evil",
]


@pytest.mark.parametrize("host", EVIL)
def test_names_that_lead_here_are_refused(gateway: Service, host: str) -> None:
    for path in ("/dashboard/state", "/v1/predictions", "/v1/videos", "/api/v1/tasks"):
        answer = httpx.get(gateway.http + path, headers={"host": host})
        assert answer.status_code == 403, path
    assert httpx.get(gateway.http + "/healthz", headers={"host": host}).status_code == 200, "probes may use any name"


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1", "[::1]:80", "zoetrope.localhost"])
def test_addresses_and_localhost_are_answered(gateway: Service, host: str) -> None:
    assert httpx.get(gateway.http + "/dashboard/state", headers={"host": host}).status_code == 200


def test_forms_of_other_sites_are_refused(gateway: Service) -> None:
    body = b'{"prompt": "a red circle"}'
    for site, status in (("cross-site", 403), ("same-origin", 201), ("none", 201)):
        headers = {"sec-fetch-site": site, "content-type": "text/plain"}
        assert httpx.post(gateway.http + "/dashboard/jobs", content=body, headers=headers).status_code == status
    gateway.empty_queue()


@pytest.mark.parametrize(
    "origin",
    [
        *("http://evil.example", "http://localhost:1", "null", "https://127.0.0.1.evil.example"),
        *("file://", "", "x:", "http://[", "http://user@127.0.0.1"),
    ],
)
def test_posts_of_other_origins_are_refused(gateway: Service, origin: str) -> None:
    """Also from browsers that say nothing of where a request comes from but its origin."""
    headers, before = {"origin": origin, "content-type": "text/plain"}, gateway.store.list("", page_size=9)
    for path in ("/dashboard/jobs", "/v1/videos"):
        assert httpx.post(gateway.http + path, content=b'{"prompt": "p"}', headers=headers).status_code == 403
    assert gateway.store.list("", page_size=9) == before


def test_its_own_pages_may_post(gateway: Service) -> None:
    body = b'{"prompt": "a red circle"}'
    answer = httpx.post(gateway.http + "/dashboard/jobs", content=body, headers={"origin": gateway.http})
    assert answer.status_code == 201
    gateway.empty_queue()


def test_with_keys_any_name_will_do(gateway: Service) -> None:
    keys: KeyTable = gateway.stores.keys
    _, secret = keys.create("browser", "acme")
    headers = {"host": "video.example", "authorization": f"Bearer {secret}"}
    assert httpx.get(gateway.http + "/dashboard/state", headers=headers).status_code == 200

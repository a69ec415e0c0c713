"""Web pages of other origins call the HTTP APIs where the operator allows it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.serving.gateway.harness import Service, running_service

APP = "https://app.example.com"
CREATE = {"origin": APP, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("cors"), allow_origins=(APP,)) as service:
        yield service


def test_a_page_of_an_allowed_origin_calls(service: Service) -> None:
    asked = httpx.options(f"{service.http}/v1/videos", headers=CREATE)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == APP
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert asked.headers["access-control-allow-headers"] == "authorization"
    headers = {"origin": APP, "sec-fetch-site": "cross-site"}
    made = httpx.post(f"{service.http}/v1/videos", json={"prompt": "a red circle"}, headers=headers)
    assert (made.status_code, made.headers["access-control-allow-origin"]) == (200, APP)
    refused = httpx.post(f"{service.http}/v1/videos", json={"prompt": ""}, headers=headers)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, APP)
    service.empty_queue()


def test_other_origins_do_not(service: Service) -> None:
    evil = {"origin": "https://evil.example"}
    asked = httpx.options(f"{service.http}/v1/videos", headers={**CREATE, **evil})
    assert asked.status_code == 400
    assert "access-control-allow-origin" not in asked.headers
    assert httpx.post(f"{service.http}/v1/videos", json={"prompt": "p"}, headers=evil).status_code == 403


def test_without_the_setting_no_origin_is_allowed(gateway: Service) -> None:
    asked = httpx.options(f"{gateway.http}/v1/videos", headers=CREATE)
    assert asked.status_code == 405
    assert "access-control-allow-origin" not in asked.headers

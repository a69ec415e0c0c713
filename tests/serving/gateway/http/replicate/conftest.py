"""One gateway with nano for the tests of the replicate SDK, whose queue each test finds empty, and its clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from replicate.client import Client

from tests.serving.gateway.harness import Service, running_service


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("replicate"), model="nano", max_upload_bytes=1 << 20) as service:
        yield service


@pytest.fixture
def service(gateway: Service) -> Iterator[Service]:
    yield gateway
    gateway.empty_queue()


@pytest.fixture
def sdk(service: Service, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As a user has it who changed one environment variable."""
    monkeypatch.setenv("REPLICATE_BASE_URL", service.http)
    monkeypatch.setenv("REPLICATE_API_TOKEN", "none")
    monkeypatch.setenv("REPLICATE_POLL_INTERVAL", "0.02")
    return Client()


@pytest.fixture
def web(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.http) as client:
        yield client

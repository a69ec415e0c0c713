"""One gateway with nano for the tests of the replicate SDK, whose queue each test finds empty, and its clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from replicate.client import Client

from tests.serving.gateway.harness import Service
from tests.serving.gateway.http.one_gateway import gateway_of


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return gateway_of(Path(__file__).parent, tmp_path_factory, max_upload_bytes=1 << 20)


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

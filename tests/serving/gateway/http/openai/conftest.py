"""One gateway for all tests of the OpenAI API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.serving.gateway.harness import Service
from tests.serving.gateway.http.one_gateway import gateway_of


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return gateway_of(Path(__file__).parent, tmp_path_factory, max_upload_bytes=100_000)


@pytest.fixture
def service(gateway: Service) -> Iterator[Service]:
    yield gateway
    gateway.empty_queue()


@pytest.fixture
def web(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.http) as client:
        yield client


@pytest.fixture
def sdk(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    """As a user has it who changed one environment variable."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{service.http}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with openai.OpenAI(max_retries=0) as client:
        yield client

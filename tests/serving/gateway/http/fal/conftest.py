"""A gateway that fal's client talks to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fal_client
import pytest

from tests.serving.gateway.harness import Service
from tests.serving.gateway.http.fal.kit import move
from tests.serving.gateway.http.one_gateway import gateway_of


@pytest.fixture
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return gateway_of(Path(__file__).parent, tmp_path_factory, max_upload_bytes=100_000)


@pytest.fixture
def service(gateway: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    move(gateway.http, monkeypatch)
    yield gateway
    gateway.empty_queue()


@pytest.fixture
def fal() -> fal_client.SyncClient:
    return fal_client.SyncClient(key="none")

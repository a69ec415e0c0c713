"""A gateway that fal's client talks to."""

from __future__ import annotations

from collections.abc import Iterator

import fal_client
import pytest

from tests.serving.gateway.harness import Service, running_service
from tests.serving.gateway.http.fal.kit import move


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("fal"), model="nano", max_upload_bytes=100_000) as service:
        yield service


@pytest.fixture
def service(gateway: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    move(gateway.http, monkeypatch)
    yield gateway
    gateway.empty_queue()


@pytest.fixture
def fal() -> fal_client.SyncClient:
    return fal_client.SyncClient(key="none")

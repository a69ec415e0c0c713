"""A gateway that the dashscope SDK talks to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.gateway.harness import Service, running_service
from tests.serving.gateway.http.dashscope.kit import use_sdk


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("dashscope"), model="nano", max_upload_bytes=100_000) as service:
        yield service


@pytest.fixture(autouse=True)
def service(gateway: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    use_sdk(gateway, monkeypatch)
    yield gateway
    gateway.empty_queue()

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.gateway.harness import Service, running_service


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("gateway")) as service:
        yield service


@pytest.fixture
def service(gateway: Service) -> Iterator[Service]:
    """The module's gateway, with an empty queue before and after."""
    yield gateway
    gateway.empty_queue()

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.gateway.harness import Service, running_service


@pytest.fixture(autouse=True)
def unlimited_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tables be as wide as they like; the workers of pytest-xdist say how wide their terminal is."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A gateway on its own; the test plays the router."""
    with running_service(tmp_path_factory.mktemp("gateway")) as service:
        yield service


@pytest.fixture
def service(gateway: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """With an empty queue, as the commands find it."""
    monkeypatch.setenv("ZOETROPE_SERVER", gateway.target)
    yield gateway
    gateway.empty_queue()

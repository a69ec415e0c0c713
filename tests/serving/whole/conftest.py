"""One service for the modules of this folder that want one: it takes most of a minute of both cores to start."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.serving.whole.service import Service

running: list[Service] = []  # one at most


def stop() -> None:
    while running:
        running.pop().stop()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running.append(Service(tmp_path_factory.mktemp("service")))
    yield running[0]
    stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """Stop the service after the last test of the folder: until the session ends, it would take time from others."""
    result = yield
    if nextitem is None or nextitem.path.parent != item.path.parent:
        stop()
    return result

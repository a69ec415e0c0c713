"""What tests of whole engines share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cluster.fake_router import Leader


@pytest.fixture
def router(ray_session: None) -> Iterator[Any]:
    """The router's side, as an actor."""
    import ray

    from tests.cluster.fake_router import start_fake_router

    actor = start_fake_router()
    yield actor
    ray.kill(actor)


@pytest.fixture
def engines() -> Iterator[list[Leader]]:
    """The engines that a test starts and puts in here; they end with it."""
    started: list[Leader] = []
    yield started
    for engine in started:
        engine.end()

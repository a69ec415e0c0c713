"""What tests of whole engines share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def router(ray_session: None) -> Iterator[Any]:
    """The router's side, as an actor."""
    import ray

    from tests.cluster.fake_router import start_fake_router

    actor = start_fake_router()
    yield actor
    ray.kill(actor)

"""What tests of whole engines share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def hub(ray_session: None) -> Iterator[Any]:
    """The router's side, as an actor."""
    import ray

    from tests.cluster.hub import Hub

    actor: Any = ray.remote(Hub).options(num_cpus=0, max_concurrency=64).remote()
    yield actor
    ray.kill(actor)

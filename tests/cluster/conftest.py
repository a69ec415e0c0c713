"""What tests of whole engines share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def hub(ray_session: None) -> Iterator[Any]:
    """The router's side, as an actor."""
    import ray

    from tests.cluster.hub import start_hub

    actor = start_hub()
    yield actor
    ray.kill(actor)

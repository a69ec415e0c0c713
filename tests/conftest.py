"""Fixtures of the whole suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# A shell that runs the suite in the background has it ignore Ctrl-C, and whatever it starts would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read once, when triton is imported: kernels run without a GPU


TESTS = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each file on one worker, where its fixtures are, and all that starts Ray on one: it takes both cores."""
    ray = {item.path for item in items if "ray_session" in getattr(item, "fixturenames", ())}
    for item in items:
        path = item.path.relative_to(TESTS)
        starts_ray = item.path in ray or path.parts[0] == "cluster" or path.name.startswith("test_service")
        item.add_marker(pytest.mark.xdist_group("ray" if starts_ray else str(path)))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """The one Ray of the test process."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # on by default for local clusters; a test process needs no secrets
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20)
    yield
    ray.shutdown()
    del os.environ["RAY_AUTH_MODE"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `tests.families.card_in` writes."""
    return tmp_path_factory.mktemp("checkpoints")

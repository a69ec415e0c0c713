"""Fixtures of the whole suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# A shell that runs the suite in the background has it ignore Ctrl-C, and whatever it starts would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

RAY_FILES = ("tests/cluster/", "tests/serving/test_service", "tests/serving/stages/test_ward")

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read once, when triton is imported: kernels run without a GPU


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each file on one worker, where its fixtures are, and all that starts Ray on one: it takes both cores."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "Ray" if file.startswith(RAY_FILES) else file

    return ByFile(config, log)


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

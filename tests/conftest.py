"""Fixtures of the whole suite."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
from collections.abc import Generator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.kinds import FIXTURES, INTEGRATION, RAY, TOGETHER, UnitRule

# A shell that runs the suite in the background has it ignore Ctrl-C, and whatever it starts would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Property tests draw the same examples in every run; --hypothesis-profile random draws others, and twice as many.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.load_profile("fixed")

# The processes that tests start, hundreds of them, import faster from bytecode, and so does the next run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

UNIT_RULE = UnitRule()


def has_gpu() -> bool:
    """Return whether PyTorch can use a GPU, without the seconds that its import takes."""
    if version("torch").endswith("+cpu"):
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


if not has_gpu():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read once, when triton is imported: kernels run without a GPU


# Toys are faster without a pool of threads, by much where other processes keep the cores busy; so are their processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Ray runs its workers at a low priority, which starves them beside the other workers of the suite.
os.environ.setdefault("RAY_worker_niceness", "0")


def our_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("ZOETROPE_", "PROMETHEUS_"))}


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def group_of(nodeid: str) -> str:
    """What one worker runs: a file, a folder whose tests share a gateway, or everything that starts Ray."""
    file = file_of(nodeid)
    if file.startswith(RAY):
        return "Ray"
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def fixtures_of(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the files of integration tests in a run of unit tests: what they import takes long to load."""
    if config.option.markexpr != "unit":
        return None
    path = collection_path.relative_to(config.rootpath).as_posix() + "/" * collection_path.is_dir()
    return path.startswith(INTEGRATION) or None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each worker begin at another part of a folder, so that they share the bytecode that the first run writes."""
    report = yield
    if isinstance(collector, pytest.Directory) and report.passed:
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        first = len(report.result) * worker // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        report.result = report.result[first:] + report.result[:first]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its kind, and put them in the order in which workers take them.

    All of Ray comes first: one worker runs it. Others that start processes wait a lot, so they take turns with those
    that compute, which keeps the cores busy. They end earlier, so that the last files are short.
    """
    for item in items:
        declared = file_of(item.nodeid).startswith(INTEGRATION) or not FIXTURES.isdisjoint(fixtures_of(item))
        if not any(item.get_closest_marker(kind) for kind in ("integration", "long")):
            item.add_marker("integration" if declared else "unit")
    groups = sorted({group_of(item.nodeid) for item in items} - {"Ray"})
    slow = {group_of(item.nodeid) for item in items if not item.get_closest_marker("unit")}
    waits, computes = ([group for group in groups if (group in slow) is asked] for asked in (True, False))
    turns = {"Ray": (-1.0, 0)}
    turns |= {group: (0.85 * number / len(waits), 1) for number, group in enumerate(waits)}
    turns |= {group: (number / len(computes), 2) for number, group in enumerate(computes)}
    items.sort(key=lambda item: (turns[group_of(item.nodeid)], file_of(item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each file on one worker, where its fixtures are, and what shares more than that on one as well."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # not by the number of tests: those of Ray are few, but long
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # the last test may have loaded a model that takes more
    if item.get_closest_marker("unit") is None:
        return (yield)
    with UNIT_RULE.applied(math.inf):  # it may prepare what other tests use too
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    if item.get_closest_marker("unit") is None:
        return (yield)
    with UNIT_RULE.applied():
        return (yield)


@pytest.fixture(autouse=True)
def own_variables() -> Iterator[None]:
    """Put our variables back: commands set some for the processes that they start, and tests run commands in here."""
    before = our_variables()
    yield
    for name in our_variables().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture
def ray_session() -> None:
    """The one Ray of the test process. It ends after the last file of Ray: idle, it would take time from the others."""
    import ray

    if ray.is_initialized():
        return
    os.environ["RAY_AUTH_MODE"] = "disabled"  # on by default for local clusters; a test process needs no secrets
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # workers that nobody asks for
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    result = yield
    if "ray" in sys.modules and (nextitem is None or not file_of(nextitem.nodeid).startswith(RAY)):
        ray = sys.modules["ray"]
        if ray.is_initialized():
            ray.shutdown()
            os.environ.pop("RAY_AUTH_MODE", None)
    return result


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `tests.fixtures.family_checkpoints.card_in` writes."""
    return tmp_path_factory.mktemp("checkpoints")

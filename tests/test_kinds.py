"""Tests are of the kind that they are marked with."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from tests.conftest import UNIT_RULE
from tests.draws import draws
from tests.kinds import INTEGRATION, NotAUnit

ROOT = Path(__file__).resolve().parents[1]


def spawn() -> None:
    multiprocessing.get_context("spawn").Process(target=print).start()


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(lambda: subprocess.run(["true"], check=True), id="subprocess"),
        pytest.param(lambda: os.system("true"), id="system"),
        pytest.param(lambda: os.posix_spawn(sys.executable, [sys.executable, "--version"], {}), id="posix_spawn"),
        pytest.param(lambda: multiprocessing.get_context("fork").Process(target=print).start(), id="fork"),
        pytest.param(spawn, id="spawn"),
    ],
)
def test_a_unit_test_cannot_start_a_process(start: Callable[[], object]) -> None:
    with pytest.raises(NotAUnit, match="starts no process"), UNIT_RULE.applied():
        start()
    with pytest.raises(NotAUnit, match="starts no process"), UNIT_RULE.applied(), contextlib.suppress(NotAUnit):
        start()  # caught by what it tests


def test_a_unit_test_cannot_compute_for_long() -> None:
    def work() -> None:
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    with UNIT_RULE.applied():
        work()
    with pytest.raises(NotAUnit, match=r"at most 0\.01 s"), UNIT_RULE.applied(0.01):
        work()


def test_an_error_of_the_test_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), UNIT_RULE.applied(0.0):
        print(1 / 0)


def test_this_test_is_watched() -> None:
    assert UNIT_RULE.watches


def test_what_is_declared_exists() -> None:
    assert [path for path in INTEGRATION if not (ROOT / path).exists()] == []


def test_each_test_has_one_kind(request: pytest.FixtureRequest) -> None:
    """A long one may carry a second mark, of its file or folder."""
    for item in request.session.items:
        kinds = {"unit", "integration", "long"} & {mark.name for mark in item.iter_markers()}
        assert len(kinds) == 1 or kinds == {"integration", "long"}, item.nodeid


def test_property_tests_draw_the_same_examples_unless_asked(request: pytest.FixtureRequest) -> None:
    random = request.config.getoption("--hypothesis-profile") == "random"
    for settings in (hypothesis.settings(), hypothesis.settings(max_examples=3)):
        assert settings.derandomize is not random
        assert settings.deadline is None, "a busy machine makes no test fail"
    assert draws(9) == (9 if random else 5)

"""A rank starts without torch's compiler and the names of all packages, which take half of its imports, and can still
have them later."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from zoetrope.model.runtime.imports import COMPILER, names_when_wanted, without_compiler

ROOT = Path(__file__).parents[3]
LOADED = """
import importlib.metadata
import sys
searches = []
importlib.metadata.packages_distributions = lambda: searches.append(1) or {}
from zoetrope.benchmarks.cold_start.start import start
start("nano", naive=False)
print("torch._dynamo" in sys.modules, len(searches))
import torch._dynamo
"""


@pytest.mark.integration
def test_a_rank_loads_no_compiler_and_reads_no_lists_of_packages() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "False 0"), done.stderr[-2000:]


def test_imports_inside_fail_and_later_ones_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, COMPILER, raising=False)
    with without_compiler(), pytest.raises(ModuleNotFoundError):
        __import__(COMPILER)
    assert COMPILER not in sys.modules


def test_a_process_that_has_it_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, COMPILER, sys)
    with without_compiler():
        assert sys.modules[COMPILER] is sys
    assert sys.modules[COMPILER] is sys


def test_names_of_packages_are_read_at_the_first_look_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """And again by nobody: diffusers asks when it is imported, and may look up a name much later."""
    searches = []

    def search() -> dict[str, list[str]]:
        searches.append(1)
        return {"cv2": ["opencv-python"]}

    monkeypatch.setattr(importlib.metadata, "packages_distributions", search)
    with names_when_wanted():
        names = importlib.metadata.packages_distributions()
    assert importlib.metadata.packages_distributions is search
    assert searches == []
    assert ("cv2" in names, names["cv2"], "torch" in names, len(names)) == (True, ["opencv-python"], False, 1)
    assert searches == [1]

"""A rank starts without torch's compiler, which takes a third of its time, and can still load it later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zoetrope.model.runtime.imports import COMPILER, without_compiler

ROOT = Path(__file__).parents[3]
LOADED = """
import sys
from zoetrope.benchmarks.cold_start.start import start
start("nano", naive=False)
print("torch._dynamo" in sys.modules)
import torch._dynamo
"""


@pytest.mark.integration
def test_a_rank_never_loads_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "False"), done.stderr[-2000:]


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

"""Every kernel that the models and the correctness cases launch compiles, and keeps the rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests.kernels.check.model_launches import networks
from tests.kernels.check.programs import run
from zoetrope.benchmarks.kernels.correctness import SETS

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def check(path: Path) -> None:
    found = json.loads(path.read_text())
    assert found["errors"] == {}
    assert found["broken"] == {}
    assert found["kernels"] > 0


@pytest.mark.parametrize("part", SETS)
def test_all_correctness_cases(part: str, cache: Path, tmp_path: Path) -> None:
    run("case_launches", str(tmp_path / "found.json"), part, cache=cache)
    check(tmp_path / "found.json")


@pytest.mark.parametrize("name", networks())
def test_a_network(name: str, cache: Path, tmp_path: Path) -> None:
    """With few and many tokens, and each choice of attention: shared memory, registers, stack and screens."""
    run("model_launches", str(tmp_path / "found.json"), name, cache=cache)
    check(tmp_path / "found.json")

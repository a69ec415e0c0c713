"""What a step launches on a GPU: how much a block, that the host never waits, and that every kernel compiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from tests.kernels.check.model_launches import networks
from zoetrope.benchmarks.kernels.correctness import SETS

REPOSITORY = Path(__file__).parents[3]
OURS = ("triton,attention=gluon", "triton", "triton,attention=int8", "triton,attention=int8_fp8")
# Kernels that one block of a step launches at most, torch's included: the host's time for a step depends on it.
MOST = {
    "dense, triton,attention=gluon": 20,
    "experts, triton,attention=gluon": 24,
    "dense, triton,attention=int8_fp8": 28,
    "experts, triton,attention=int8_fp8": 32,
}

pytestmark = pytest.mark.integration


def run(module: str, *arguments: str, cache: Path) -> None:
    """Run a program without Triton's interpreter, and where no GPU is seen."""
    env = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "ZOETROPE_KERNELS")}
    env |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", f"tests.kernels.check.{module}", *arguments]
    result = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def counts(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a dense block and one with experts launch and wait for, by the choice of kernels."""
    out = tmp_path_factory.mktemp("counts") / "counts.json"
    run("model_launches", "count", str(out), cache=cache)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("label", sorted(MOST))
def test_launches_of_a_block(label: str, counts: dict[str, Any]) -> None:
    launches, operations = counts[label]["launches"], counts[label]["operations"]
    total = sum(launches.values()) + sum(operations.values())
    print(f"{label}: {sum(launches.values())} of ours, {sum(operations.values())} of torch")
    assert total <= MOST[label], f"ours {launches}, torch's {operations}"
    assert launches


@pytest.mark.parametrize("choice", [*OURS, "by default"])
@pytest.mark.parametrize("kind", ["dense", "experts"])
def test_the_host_never_waits_in_a_block(kind: str, choice: str, counts: dict[str, Any]) -> None:
    """No value is read, nothing is copied from memory that is not pinned."""
    found = counts[f"{kind}, {choice}"]
    assert "error" not in found, found["error"]
    assert [event for event in found["events"] if event["kind"] != "pinned"] == []


def check(found: dict[str, Any]) -> None:
    assert found["errors"] == {}
    assert found["broken"] == {}
    assert found["kernels"] > 0


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", SETS)
def test_all_correctness_cases_compile(part: str, cache: Path, tmp_path: Path) -> None:
    run("case_launches", str(tmp_path / "found.json"), part, cache=cache)
    check(json.loads((tmp_path / "found.json").read_text()))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", networks())
def test_everything_that_a_network_launches_compiles(name: str, cache: Path, tmp_path: Path) -> None:
    """With few and many tokens, and each choice of attention: shared memory, registers, stack and screens."""
    run("model_launches", "compile", str(tmp_path / "found.json"), name, cache=cache)
    check(json.loads((tmp_path / "found.json").read_text()))

"""A fake CUDA device does what a real one does to the host, and shows what a block of a model asks of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from tests.kernels.check.fake_device_cases import CASES
from tests.kernels.check.model_launches import COUNTED, COUNTED_CHOICES
from tests.kernels.check.programs import run
from zoetrope.kernels.check.fake_cuda import fake_cuda

# Kernels that one block of a step launches at most, torch's included: the host's time for a step depends on it.
MOST = {
    "dense, triton,attention=gluon": 20,
    "experts, triton,attention=gluon": 24,
    "dense, triton,attention=int8_fp8": 28,
    "experts, triton,attention=int8_fp8": 32,
}

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `fake_device_cases` writes."""
    folder = tmp_path_factory.mktemp("fake")
    run("fake_device_cases", str(folder / "found.json"), cache=folder / "cache")
    answer: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return answer


@pytest.mark.parametrize("name", CASES)
def test_fake_device(name: str, found: dict[str, Any]) -> None:
    assert found["cases"][name] == ""


@pytest.mark.parametrize("label", MOST)
def test_launches_of_a_block(label: str, found: dict[str, Any]) -> None:
    launches, operations = found["counts"][label]["launches"], found["counts"][label]["operations"]
    total = sum(launches.values()) + sum(operations.values())
    print(f"{label}: {sum(launches.values())} of ours, {sum(operations.values())} of torch")
    assert total <= MOST[label], f"ours {launches}, torch's {operations}"
    assert launches


@pytest.mark.parametrize("label", MOST)
def test_every_launch_is_on_the_device_of_its_tensors(label: str, found: dict[str, Any]) -> None:
    """Inside a guard: Triton launches on the current device."""
    assert found["counts"][label]["unguarded"] == []


@pytest.mark.parametrize("choice", [*COUNTED_CHOICES, "by default"])
@pytest.mark.parametrize("kind", COUNTED)
def test_the_host_never_waits_in_a_block(kind: str, choice: str, found: dict[str, Any]) -> None:
    """No value is read, and nothing is copied from memory that is not pinned."""
    count = found["counts"][f"{kind}, {choice}"]
    assert "error" not in count, count["error"]
    assert [event for event in count["events"] if event["kind"] != "pinned"] == []


def test_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoetrope.kernels.check.fake_cuda.interpreting", lambda: True)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"), fake_cuda():
        pass


@pytest.mark.long
def test_a_module_is_run_with_it(tmp_path: Path) -> None:
    """As the benchmark of kernels is: its cases compile, their results are marked, and no proof is made."""
    arguments = ["--correctness-only", "--only", "passes", "--tiny", "--seed", "1", "--data", str(tmp_path)]
    run(
        "zoetrope.kernels.check.fake_cuda",
        "--skip-compiling",
        "zoetrope.benchmarks.kernels",
        *arguments,
        "--out",
        str(tmp_path),
        cache=tmp_path / "cache",
    )
    (results,) = tmp_path.glob("*.json")
    data = json.loads(results.read_text())
    assert "fake" in json.dumps(data["runs"])
    findings = data["correctness"]
    assert findings
    assert all(finding["right"] and not finding["computed"] and finding["error"] is None for finding in findings)

"""Steps of models, captured on a fake CUDA device that refuses what a capture may not do."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("triton")

from tests.kernels.check.programs import run

pytestmark = pytest.mark.integration
OURS = ("triton,attention=gluon", "triton,attention=int8_fp8")
CASES = ("dense, by default", "experts, by default", *(f"experts, {choice}" for choice in OURS), "experts, fp8")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `graph_cases` writes."""
    folder = tmp_path_factory.mktemp("graphs")
    run("tests.model.denoising.graph_cases", str(folder / "found.json"), cache=folder / "cache")
    answer: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return answer


@pytest.mark.parametrize("name", CASES)
def test_a_whole_pass_is_captured_and_replayed(name: str, found: dict[str, Any]) -> None:
    """Nothing in it waits, no table is made on its way, and all that it reads outside its own memory stays."""
    case = found[name]
    assert (case["graphs"], case["replays"], case["waits"]) == (1, 3, [])
    eager, captured, *replayed = case["launches"]
    assert captured > 2 * eager and max(replayed[:2]) == 12, "copies of what is new, the graph, the velocities"


@pytest.mark.parametrize("choice", OURS)
def test_a_table_that_nobody_holds_would_be_read_after_its_end(choice: str, found: dict[str, Any]) -> None:
    """That the fake device finds it, and that the step then runs eagerly."""
    case = found[f"experts, {choice}, tables not held"]
    assert (case["graphs"], case["replays"]) == (0, 2)
    assert case["launches"][-1] > case["launches"][2]

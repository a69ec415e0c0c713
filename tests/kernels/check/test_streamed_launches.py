"""On a CUDA device a streamed network launches what a resident one does, and one page-locked copy for each block: the
host waits for nothing, and no copy is from memory that can be paged out."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("triton")

from tests.kernels.check.programs import run
from tests.kernels.check.streamed_launches import CASES, LAYERS

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("streamed")
    run("streamed_launches", str(folder / "found.json"), cache=folder / "cache")
    answer: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return answer


@pytest.mark.parametrize("name", CASES)
def test_a_streamed_pass(name: str, found: dict[str, Any]) -> None:
    resident, streamed = found[name]["resident"], found[name]["streamed"]
    assert streamed["launches"] == resident["launches"] != {}
    assert streamed["waits"] == resident["waits"] == []
    assert resident["events"] == {}
    assert streamed["events"] == {"pinned": 2 * LAYERS}, "two passes"

"""The study of attention's error: small inputs, the shape of its report, and what must be better than what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoetrope.benchmarks.attention_error import Error, adversarial, block_mask, density, main, study, top_mass
from zoetrope.benchmarks.attention_report import markdown

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "attention-error.json"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    inputs = adversarial(length=200, heads=1, dim=32)
    return study(inputs, inputs)


def error(rows: list[dict[str, Any]], part: str, method: str) -> float:
    (row,) = [row for row in rows if (row["part"], row["method"]) == (part, method)]
    return float(row["relative_l2"])


def test_smoothing_helps_offset_keys(rows: list[dict[str, Any]]) -> None:
    for part in ("4 channels of k offset by 50", "all of k offset by 20 (one vector a head)"):
        for method in ("int8", "int8 + fp8"):
            assert error(rows, part, method) < error(rows, part, f"{method}, no smoothing") / 2


def test_fewer_bits_are_worse(rows: list[dict[str, Any]]) -> None:
    errors = [error(rows, "normal numbers", method) for method in ("bf16", "int8", "int8 + fp8")]
    assert errors == sorted(errors) and errors[-1] < 0.05


def test_all_blocks_are_exact_and_fewer_are_worse(rows: list[dict[str, Any]]) -> None:
    for part in {row["part"] for row in rows}:
        assert error(rows, part, "mass 1") == 0
        assert error(rows, part, "mass 0.5") >= error(rows, part, "mass 0.95")


def test_masks() -> None:
    shares = torch.tensor([[0.5, 0.1, 0.4], [0.2, 0.7, 0.1]])
    assert top_mass(shares, 0.6).tolist() == [[True, False, True], [False, True, False]]
    assert top_mass(shares, 1.0).all()
    inputs = adversarial(length=200, heads=1, dim=32)[0]
    shares_computed = [density(block_mask(inputs, mass, oracle=True)) for mass in (0.1, 0.5, 1.0)]
    assert shares_computed == sorted(shares_computed) and shares_computed[-1] == 1 and shares_computed[0] < 0.5


def test_sums_of_errors() -> None:
    total = Error()
    total.add(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]).double())
    total.add(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 1.0]).double(), density=0.5)
    found = total.figures()
    assert found["relative_l2"] == pytest.approx(0.5**0.5)
    assert found["cosine"] == pytest.approx(3 / 10**0.5)
    assert found["max_abs"] == 1 and found["density"] == 0.75


def test_the_command_on_real_activations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "error.json"
    assert main(["--out", str(out), "--steps", "1", "--long-steps", "0", "--length", "70", "--no-generations"]) == 0
    record = json.loads(out.read_text())
    parts = {row["part"] for row in record["rows"] if row["source"] == "nano"}
    assert parts == {"all", *(f"layer {i} {kind}" for i in range(5) for kind in ("self", "cross"))}
    assert all(0 <= row["relative_l2"] < 1.5 for row in record["rows"])
    assert out.with_suffix(".md").read_text() == markdown(record)
    assert "layer 4 cross" in capsys.readouterr().out


def test_the_committed_page_is_that_of_the_record() -> None:
    record = json.loads(RESULTS.read_text())
    assert RESULTS.with_suffix(".md").read_text() == markdown(record)
    methods = {row["method"] for row in record["rows"]}
    assert {"bf16", "int8", "int8, no smoothing", "int8 + fp8", "int8 + fp8, no smoothing", "mass 0.9"} <= methods
    assert {row["source"] for row in record["rows"]} == {"nano", "nano, 65 frames", "adversarial"}
    assert len(record["generations"]) == 7

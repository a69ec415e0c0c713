"""The benchmark of one step runs where there is no GPU too, on the small preset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoetrope.benchmarks.step import main


def test_a_step_in_8_bits_has_the_same_parts(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    size = ["--preset", "nano", "--duration", "1", "--repeats", "1", "--device", "cpu"]
    assert main([*size, "--quantize", "fp8", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["quantize"] == "fp8"
    assert all(share > 0 for share in record["rows"][0]["shares"].values())


def test_a_step_is_measured_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "step.json"
    command = ["--preset", "nano", "--duration", "2", "--repeats", "1", "--device", "cpu", "--out", str(out)]
    assert main(command) == 0
    record = json.loads(out.read_text())
    (row,) = record["rows"]
    assert (row["preset"], row["frames"], row["tokens"], row["forwards"]) == ("nano", 17, 5 * 6 * 10, 2)
    assert row["seconds"] > 0
    assert row["peak_gib"] is None
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert {"attention", "experts", "dense feed-forward", "rest"} == set(row["shares"])
    assert all(share > 0 for share in row["shares"].values())
    assert record["command"] == "python -m zoetrope.benchmarks.step " + " ".join(command)
    assert "nano 480p 17 frames, 300 tokens" in capsys.readouterr().out

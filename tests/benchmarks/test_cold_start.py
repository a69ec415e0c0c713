"""Starts of a rank are measured in both ways, by phase."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoetrope.benchmarks.cold_start.__main__ import PHASES, WAYS, main


@pytest.mark.long
def test_both_ways_are_measured_by_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cold-start.json"
    assert main(["--blocks", "1", "--rounds", "1", "--folder", str(tmp_path), "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    for way in WAYS:
        seconds = record["seconds"][way]
        assert set(seconds) == {*PHASES, "total"}
        assert seconds["total"] == pytest.approx(sum(seconds[phase] for phase in PHASES))
        assert seconds["import"] > 0 and seconds["read"] > 0
    assert record["bytes"] > 100e6
    assert record["goal_met"] == (record["gain"] >= 2)
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # the checkpoint is gone

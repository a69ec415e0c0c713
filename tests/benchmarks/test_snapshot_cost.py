"""The cost of snapshots is measured on nano and computed for what does not fit here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from zoetrope.benchmarks.snapshot_cost import main


def test_it_is_measured_and_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "snapshot-cost.json"
    command = ["--steps", "4", "--rounds", "1", "--out", str(out)]
    assert main(command) == 0
    record = json.loads(out.read_text())
    assert record["environment"]["command"] == "python -m zoetrope.benchmarks.snapshot_cost " + " ".join(command)
    rows = {row["variant"]: row for row in record["measured"]}
    assert [(name, row["snapshots"]) for name, row in rows.items()] == [
        ("none", 0),
        ("none, again", 0),
        ("default", 1),  # the result; the run takes less than ten seconds
        ("every step", 4),
    ]
    assert rows["none"]["waited_share"] == 0 and rows["none"]["bytes"] == 0
    latents = 4 * math.prod(record["measured_on"]["latent_shape"])
    assert latents < rows["default"]["bytes"] < latents + 4096  # Euler keeps nothing else
    assert 0 < rows["every step"]["waited_share"] < 1
    assert record["computed_for"]["latent_shape"] == [48, 91, 68, 120]
    assert record["computed_for"]["snapshot_bytes"] == 4 * 4 * 48 * 91 * 68 * 120
    assert {row["ranks"] for row in record["computed"]} == {1, 2, 4, 8}
    assert all(row["share"] < 0.01 for row in record["computed"]) and record["goal_met_computed"]
    page = out.with_suffix(".md").read_text()
    assert page in capsys.readouterr().out
    assert "## Computed, not measured: wan2.7-27b, 1080p, 15 s" in page and "570 MB" in page


@pytest.mark.parametrize("option", [["--steps", "1"], ["--rounds", "0"]])
def test_nothing_is_measured_of_nothing(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(option)
    assert "at least" in capsys.readouterr().err

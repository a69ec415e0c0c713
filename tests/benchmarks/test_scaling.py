"""The scaling model runs, says what it is, and is held against what was measured on one GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from zoetrope.benchmarks.scaling import CALIBRATED, COMPUTED, GPUS, MODELS, main, points
from zoetrope.cluster.planning.hardware import hardware
from zoetrope.cluster.planning.rates import roofline
from zoetrope.cluster.planning.step_time import step_seconds
from zoetrope.model.families import PRESETS

H100 = roofline(hardware("h100"))


def test_a_point_for_every_number_of_gpus_and_way_to_use_them() -> None:
    found = list(points(H100, PRESETS["wan2.7-27b"], "1080p"))
    assert [p.gpus for p in found] == [1, 2, 4, 8, 16, 16, 32, 32, 64, 64]
    assert found[0].seconds == step_seconds(PRESETS["wan2.7-27b"].config, [63_240] * 2, H100)
    assert [p.fits for p in found] == [False, *[True] * 9]
    for p in found:
        assert p.gangs * p.cfg_groups * p.sequence_ranks == p.gpus
        assert p.sequence_ranks <= 8
        assert p.compute + p.all_to_all + p.gather + p.idle == pytest.approx(p.seconds)
        assert 0 < p.efficiency < 1.0001
        assert (p.infiniband > 0) == (p.cfg_groups * p.sequence_ranks > 8)
    inside, across = found[4:6]
    assert (inside.layout, across.layout) == ("2 gangs of 2 x 4", "2 x 8")
    assert across.seconds < inside.seconds
    assert across.efficiency < inside.efficiency


def test_files_are_labelled_as_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, results = tmp_path / "new" / "scaling", tmp_path / "results"
    command = ["--out", str(out), "--results", str(results)]
    assert main(command) == 0
    assert COMPUTED in capsys.readouterr().out
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["label"] == COMPUTED
    assert record["environment"]["command"] == "python -m zoetrope.benchmarks.scaling " + " ".join(command)
    assert {point["model"] for point in record["points"]} == set(MODELS)
    assert {point["gpus"] for point in record["points"]} == set(GPUS)
    table = out.with_suffix(".md").read_text()
    assert COMPUTED in table
    assert "| 8 | 2 x 4 | 0.943 |" in table
    assert "There are no results for this kind of GPU." in table


def test_a_measured_step_is_compared_and_calibrates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens, config = 12_090, PRESETS["wan2.7-27b"].config
    measured = 1.25 * step_seconds(config, [tokens] * 2, H100)
    row = {"preset": "wan2.7-27b", "size": "480p", "tokens": tokens, "forwards": 2, "seconds": measured}
    (tmp_path / "step.json").write_text(json.dumps({"device": "NVIDIA H100 80GB HBM3", "rows": [row]}))
    assert main(["--out", str(tmp_path / "scaling"), "--results", str(tmp_path)]) == 0
    assert "wan2.7-27b, 2 x 12090 tokens: predicted over measured 0.80" in capsys.readouterr().out
    record = json.loads((tmp_path / "scaling.json").read_text())
    assert record["label"] == CALIBRATED
    (check,) = record["checks"]
    assert check["ratio"] == pytest.approx(0.8)
    alone = next(p for p in record["points"] if (p["model"], p["size"], p["gpus"]) == ("wan2.7-27b", "480p", 1))
    assert alone["seconds"] == pytest.approx(measured)
    assert "| wan2.7-27b | 2 x 12,090 |" in (tmp_path / "scaling.md").read_text()


def test_without_matplotlib_there_is_no_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["--out", str(tmp_path / "scaling"), "--results", str(tmp_path), "--gpu", "h200"]) == 0
    assert "no plot, matplotlib is not installed" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scaling.json", "scaling.md"]


def test_with_matplotlib_there_is_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["--out", str(tmp_path / "scaling"), "--results", str(tmp_path)]) == 0
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")

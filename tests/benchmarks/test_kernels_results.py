"""Results of several runs in one file, and the page made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.kernels import plot, tune
from zoetrope.benchmarks.kernels.contenders import Contender, ContenderRow, ContenderWork, race
from zoetrope.benchmarks.kernels.correctness import Finding
from zoetrope.benchmarks.kernels.report import markdown
from zoetrope.benchmarks.kernels.results import Results
from zoetrope.benchmarks.kernels.targets import TargetResult
from zoetrope.benchmarks.kernels.timing import Timing, WallClock
from zoetrope.kernels.gpu.tiles import AttentionTile, RowTile


def header(date: str, device: str = "a GPU") -> dict[str, Any]:
    known = dict.fromkeys(("driver", "cuda", "cudnn", "torch", "triton", "commit"), "x")
    more = {"packages": {"liger-kernel": "1"}, "changed": False, "seed": 1, "command": "run"}
    return {**known, **more, "device": device, "date": date}


def results(folder: Path, date: str, device: str = "a GPU") -> Results:
    return Results(folder, "h100", header(date, device), smoke=False)


def finding(error: float, name: str = "one", dtype: str = "bf16") -> Finding:
    return Finding("attention", "triton", dtype, 128, name, error, 1e-2, True)


def test_a_new_run_replaces_the_cases_it_measured_and_no_others(tmp_path: Path) -> None:
    first = results(tmp_path, "1")
    first.add_rows(
        [ContenderRow("moe", "a", "x", 1.0), ContenderRow("moe", "a", "y", 2.0), ContenderRow("moe", "b", "x", 3.0)], []
    )
    first.add_rows([], [TargetResult("t", "a", 1.0, "y", 0.5), TargetResult("t", "b", 1.0, "y", 0.5)])
    first.add_findings([finding(1e-3), finding(1e-3, dtype="fp16")])
    second = results(tmp_path, "2")
    second.add_rows([ContenderRow("moe", "a", "x", 9.0)], [TargetResult("t", "a", 1.0, "y", 2.0)])
    second.add_findings([finding(2e-3, "two")])
    stored = json.loads((tmp_path / "h100.json").read_text())
    rows = [(row["case"], row["name"], row["seconds"], row["run"]) for row in stored["rows"]]
    assert rows == [("b", "x", 3.0, "1"), ("a", "x", 9.0, "2")]
    assert [(verdict["case"], verdict["measured"], verdict["met"]) for verdict in stored["verdicts"]] == [
        ("b", 0.5, False),
        ("a", 2.0, True),
    ]
    assert [(entry["dtype"], entry["name"]) for entry in stored["correctness"]] == [("fp16", "one"), ("bf16", "two")]
    assert sorted(stored["runs"]) == ["1", "2"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["h100.json"]


def test_runs_of_which_nothing_is_left_go(tmp_path: Path) -> None:
    results(tmp_path, "1").add_rows([ContenderRow("moe", "a", "x", 1.0)], [])
    results(tmp_path, "2").add_rows([ContenderRow("moe", "a", "x", 2.0)], [])
    assert list(json.loads((tmp_path / "h100.json").read_text())["runs"]) == ["2"]


def test_another_device_does_not_mix_in(tmp_path: Path) -> None:
    results(tmp_path, "1").add_rows([ContenderRow("moe", "a", "x", 1.0)], [])
    other = results(tmp_path, "2", device="another GPU")
    other.save()
    assert json.loads(other.path.read_text())["rows"] == []


def test_the_page_tells_targets_bounds_errors_and_absences(tmp_path: Path) -> None:
    run = results(tmp_path, "1")
    run.add_rows(
        [
            ContenderRow("bounds", "product", "cuBLAS bfloat16", 1.0, flops=8e14),
            ContenderRow("bounds", "copy", "copy", 1.0, moved=3e12),
            ContenderRow("attention", "self", "triton", 0.5, 0.4, 0.6, 9, flops=2e14, difference=1e-3),
            ContenderRow("attention", "self", "flash_attn 3", absent="not installed"),
            ContenderRow("passes", "norm", "triton", 1.0, 1.0, 1.0, 9, moved=2.4e12),
        ],
        [
            TargetResult("first", "self", 0.85, "sdpa cudnn", 0.68),
            TargetResult("second", "self", 1.1, "sdpa", 1.2),
            TargetResult("third", "self", 1.0, None, None, "no peer"),
        ],
    )
    run.add_findings([finding(1e-3), finding(float("inf"), "bad | case")])
    page = markdown(run.as_dict())
    assert "| first | self | 0.85 | 0.680 | **missed** by 20 % | sdpa cudnn |" in page
    assert "| second | self | 1.10 | 1.200 | met | sdpa |" in page
    assert "| third | self | 1.00 | - | absent | no peer |" in page
    assert "| self | triton | 500.000 | 400.000-600.000 | 400.0 |  | 50 % | 1.0e-03 |" in page
    assert "| norm | triton | 1000.000 | 1000.000-1000.000 |  | 2.400 | 80 % |  |" in page
    assert "* flash_attn 3 (self): not installed" in page
    assert "| attention/triton | bf16 | 128 | 2 | 0.10 | **1 wrong** |" in page
    assert "seed 1; `run`" in page and "liger-kernel 1" in page


def test_a_contender_that_raises_is_absent_and_the_others_go_on() -> None:
    def fails(i: int) -> Any:
        raise RuntimeError("no such kernel\nhere")

    contenders = [
        Contender("fails", fails),
        Contender("missing", absent="not installed"),
        Contender("works", lambda i: lambda: None),
    ]
    rows = race(ContenderWork("s", "c", flops=6.0), contenders, WallClock(), 0.001)
    assert [row.name for row in rows] == ["fails", "missing", "works"]
    assert [row.seconds is None for row in rows] == [True, True, False]
    assert rows[0].absent == "RuntimeError: no such kernel here" and rows[1].absent == "not installed"


def test_the_middle_of_the_times_counts() -> None:
    timing = Timing.of([5.0, 1.0, 2.0, 100.0, 3.0])
    assert (timing.median, timing.low, timing.high, timing.runs) == (3.0, 1.0, 100.0, 5)


def test_the_table_of_tiles_is_merged(tmp_path: Path) -> None:
    tune.write("h100", [tune.TuningResult("b", RowTile(2, 4), 1.1, 1.0, 0)], {"date": "1"}, tmp_path)
    tried = [tune.TuningResult("a", AttentionTile(64, 64), 1.1, 1.0, 0), tune.TuningResult("b", None, 1.0, 1.0, 2)]
    path = tune.write("h100", tried, {"date": "2"}, tmp_path)
    stored = json.loads(path.read_text())
    assert list(stored["tiles"]) == ["a", "b"] and stored["run"] == {"date": "2"}
    assert RowTile(**stored["tiles"]["b"]) == RowTile(2, 4)
    assert AttentionTile(**stored["tiles"]["a"]) == AttentionTile(64, 64)


def test_without_matplotlib_there_is_a_reason_instead_of_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "installed", lambda module: f"{module} is not installed")
    reason = plot.plot(results(tmp_path, "1").as_dict(), tmp_path / "plot.png")
    assert reason is not None and ".[bench]" in reason and not list(tmp_path.iterdir())


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = results(tmp_path, "1")
    path = tmp_path / "plot.png"
    assert plot.plot(run.as_dict(), path) == "nothing was timed"
    bound = ContenderRow("bounds", "product", "cuBLAS bfloat16", 1.0, flops=8e14)
    run.add_rows([bound, ContenderRow("moe", "a", "x", 1.0, flops=1e14)], [])
    assert plot.plot(run.as_dict(), path) is None
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("smoke", [True, False])
def test_a_smoke_test_says_so_at_the_top(tmp_path: Path, smoke: bool) -> None:
    run = Results(tmp_path, "x", header("1"), smoke=smoke)
    assert ("no GPU figure" in markdown(run.as_dict())) == smoke

"""The command: what it is asked for, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoetrope.benchmarks.simulate.__main__ import main
from zoetrope.benchmarks.simulate.fleet import parse_engines
from zoetrope.benchmarks.simulate.trace import TraceError, read_trace


def test_policies_are_compared_on_one_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, trace = tmp_path / "results" / "found.json", tmp_path / "trace.jsonl"
    options = ["--hours", "0.05", "--engines", "1x8,2x4", "--policies", "fair,fifo", "--mtbf", "20"]
    assert main([*options, "--write", str(trace), "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert [run["policy"] for run in record["runs"]] == ["fair", "fifo"]
    assert record["trace"]["jobs"] == len(read_trace(trace)) == record["runs"][0]["finished"] > 5
    page = out.with_suffix(".md").read_text()
    assert page in capsys.readouterr().out
    assert "**Prediction: simulated with computed step times, nothing here was measured on a GPU.**" in page
    assert "1 engine of 8 GPUs and 2 engines of 4 GPUs" in page and "a GPU fails every 20 hours" in page
    assert out.with_suffix(".png").stat().st_size > 10_000
    # The trace that was written gives the same again.
    again = tmp_path / "again"
    assert main([*options, "--trace", str(trace), "--out", str(again)]) == 0
    figures = [json.loads(path.read_text())["runs"][0] for path in (out, again.with_suffix(".json"))]
    assert figures[0]["latency"] == figures[1]["latency"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--engines", "8"], "engines is '8': '8' is not COUNTxGPUS, such as 8x8"),
        (["--engines", "200x8"], "1600 GPUs, must be at most 1024"),
        (["--engines", "1x5"], "engines: wan2.7-27b on h100: gpus is "),
        (["--gpu", "h900"], "gpu is 'h900'"),
        (["--model", "wan9"], "model is 'wan9', must be one of "),
        (["--policies", "fair,lifo"], "policies: 'lifo' is unknown, there are edf, "),
        (["--load", "0"], "load is 0.0, must be above 0"),
        (["--load", "1e300"], "load is 1e+300: about "),
        (["--hours", "1e9"], "load is 0.85: about "),
        (["--hours", "nan"], "hours is nan, must be above 0"),
        (["--noise", "2"], "noise is 2.0, must be from 0 to 1"),
        (["--trace", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["--record", "nowhere.db", "--write", "x"], "record is "),
        (["--record", "nowhere.db"], "write: name the file"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(options) == 2
    assert problem in capsys.readouterr().err


def test_engines_are_written_as_counts_and_sizes() -> None:
    assert parse_engines("2x8, 3x1") == (8, 8, 1, 1, 1)
    with pytest.raises(TraceError, match="'x8' is not COUNTxGPUS"):
        parse_engines("1x8,x8")

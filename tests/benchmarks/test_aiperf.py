"""The benchmark by AIPerf: what it is called with, what is kept of its export, and what fails."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks import aiperf
from zoetrope.benchmarks.provenance import REPOSITORY

DOCUMENTED = REPOSITORY / "docs" / "benchmarks.md"


def fake(folder: Path, exported: dict[str, Any] | None, status: int = 0) -> str:
    """A program in AIPerf's place that notes its arguments and exports this."""
    path = folder / "fake-aiperf"
    lines = [
        f"#!{sys.executable}",
        "import json, pathlib, sys",
        "folder = pathlib.Path(sys.argv[sys.argv.index('--artifact-dir') + 1])",
        f"pathlib.Path({str(folder / 'seen.json')!r}).write_text(json.dumps(sys.argv[1:]))",
        "print('a last line')",
        *([] if exported is None else [f"(folder / {aiperf.EXPORT!r}).write_text({json.dumps(exported)!r})"]),
        f"sys.exit({status})",
    ]
    path.write_text("\n".join(lines))
    path.chmod(0o755)
    return str(path)


def export(errors: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {
        "aiperf_version": "0.13.0",
        "request_count": {"unit": "requests", "avg": 20.0 - errors},
        "request_latency": {"unit": "ms", "avg": 900.0, "min": 1.0, "max": 2000.0, "p50": 850.0, "p99": 1990.0},
        "input_config": {"artifacts": {"dir": "/home/somebody/artifacts"}, "endpoint": {"unit": None}},
        "is_complete": True,
        "was_cancelled": False,
        "error_summary": [],
    }
    if errors:
        found["error_request_count"] = {"unit": "requests", "avg": float(errors)}
        found["error_summary"] = [{"error_details": {"code": 500, "message": "no"}, "count": errors}]
    return found


@pytest.mark.integration
def test_what_is_kept_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results" / "aiperf"
    given = ["--url", "http://127.0.0.1:1", "--aiperf", fake(tmp_path, export()), "--out", str(out)]
    assert aiperf.main(given) == 0
    record, page = json.loads(out.with_suffix(".json").read_text()), out.with_suffix(".md").read_text()
    assert (record["requests"], record["errors"], record["complete"]) == (20, 0, True)
    assert record["metrics"]["request_latency"]["p99"] == 1990.0
    assert "| latency | ms | 900.00 | 1.00 | 2,000.00 | 850.00 |  | 1,990.00 |" in page
    assert "**20 requests succeeded, 0 failed.**" in page and page in capsys.readouterr().out
    kept = json.dumps({name: value for name, value in record.items() if name != "environment"})
    assert "somebody" not in kept and "127.0.0.1" not in kept and str(tmp_path) not in kept


@pytest.mark.integration
def test_it_is_called_as_documented(tmp_path: Path) -> None:
    assert aiperf.main(["--url", "http://127.0.0.1:8080", "--aiperf", fake(tmp_path, export())]) == 0
    called = json.loads((tmp_path / "seen.json").read_text())
    block = DOCUMENTED.read_text().partition("\naiperf ")[2].partition("```")[0].replace("\\\n", " ")
    added = {"--artifact-dir", "--ui", "none", "--random-seed", str(aiperf.SEED)}  # where, how loud, and repeatable
    assert set(block.split()) == {word for word in called if word not in added and not word.startswith("/")}


@pytest.mark.integration
def test_failed_requests_fail_the_run(tmp_path: Path) -> None:
    out = tmp_path / "aiperf"
    given = ["--url", "http://127.0.0.1:1", "--aiperf", fake(tmp_path, export(errors=2)), "--out", str(out)]
    assert aiperf.main(given) == 1
    page = out.with_suffix(".md").read_text()
    assert "**18 requests succeeded, 2 failed.**" in page and '2 times: `{"code": 500' in page


@pytest.mark.integration
@pytest.mark.parametrize("exported, status", [(None, 0), (export(), 3)])
def test_a_run_without_a_report_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], exported: dict[str, Any] | None, status: int
) -> None:
    given = ["--url", "http://127.0.0.1:1", "--aiperf", fake(tmp_path, exported, status), "--out", str(tmp_path / "x")]
    assert aiperf.main(given) == 1
    said = capsys.readouterr().err
    assert f"ended with status {status}" in said and "a last line" in said
    assert not (tmp_path / "x.json").exists()


def test_without_it_nothing_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert aiperf.main([]) == 2
    assert "make aiperf" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        aiperf.main(["--aiperf", sys.executable, "--requests", "2", "--concurrency", "4"])
    assert "must be at most --requests, 2" in capsys.readouterr().err


def test_the_tokenizer_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    folder = Path(aiperf.tokenizer_files()["TIKTOKEN_CACHE_DIR"])
    assert (folder / "fb374d419588a4632f3f557e76b4b70aebbca790").is_file(), "tiktoken's name for o200k_base"
    monkeypatch.setitem(os.environ, "TIKTOKEN_CACHE_DIR", "mine")
    assert aiperf.tokenizer_files() == {}

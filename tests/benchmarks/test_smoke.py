"""The smoke run of all benchmarks: what counts as a failure, and what is only left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from zoetrope.benchmarks import smoke
from zoetrope.benchmarks.registry import BENCHMARKS
from zoetrope.benchmarks.schema.computed import ScalingRecord


@pytest.mark.integration
def test_a_run_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main(["--only", "cached_schedules", "--keep", str(tmp_path / "kept")]) == 0
    assert "1 of 1 benchmarks wrote valid results" in capsys.readouterr().out


@pytest.mark.integration
def test_a_failure_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(BENCHMARKS["decision_time"], smoke=("--waiting", "none"))
    monkeypatch.setitem(BENCHMARKS, "decision_time", wrong)
    assert smoke.main(["--only", "decision_time"]) == 1
    said = capsys.readouterr().out
    assert "decision_time: FAILED" in said and "exit status 2" in said and "'none'" in said
    assert "failed: decision_time" in said


def grandchildren() -> set[psutil.Process]:
    """Processes that those of ours have forked."""
    return {child for server in psutil.Process().children() for child in server.children(recursive=True)}


@pytest.mark.integration
def test_one_that_does_not_end_is_killed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    slow = replace(BENCHMARKS["decision_time"], smoke=("--waiting", "100000", "--decisions", "100000"))
    monkeypatch.setitem(BENCHMARKS, "decision_time", slow)
    monkeypatch.setattr(smoke, "LIMIT", 2.0)
    before = grandchildren()
    assert smoke.main(["--only", "decision_time"]) == 1
    assert "decision_time: FAILED" in (said := capsys.readouterr().out) and "it did not end" in said
    assert grandchildren() <= before


def test_the_longest_are_begun_first() -> None:
    assert BENCHMARKS.keys() > set(smoke.LONGEST) and not any(BENCHMARKS[name].quick for name in smoke.LONGEST)
    assert smoke.in_order(BENCHMARKS.values())[: len(smoke.LONGEST)] == [BENCHMARKS[name] for name in smoke.LONGEST]


def test_what_is_lacking_is_no_failure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert smoke.main(["--only", "forward_graphs"]) == 0
    assert "forward_graphs: not run, needs a GPU" in capsys.readouterr().out


def test_results_of_another_benchmark_do_not_count(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["scaling"]
    with pytest.raises(ValueError, match="wrote no results"):
        smoke.check(benchmark, tmp_path, "")
    for name in ("adapters.json", "adapters.md"):
        source = Path(smoke.__file__).parent / "results" / name
        (tmp_path / name).write_text(source.read_text())
    with pytest.raises(ValueError, match="adapters made it, not scaling"):
        smoke.check(benchmark, tmp_path, "")
    silent = replace(benchmark, record=None)
    assert benchmark.record is ScalingRecord and smoke.check(silent, tmp_path, "a table") == ()
    with pytest.raises(ValueError, match="printed nothing"):
        smoke.check(silent, tmp_path, " \n")


@pytest.mark.parametrize("given, said", [(["--only", "none"], "'none' must be of"), (["--workers", "0"], "at least 1")])
def test_options_are_checked(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        smoke.main(given)
    assert said in capsys.readouterr().err


def test_a_folder_with_files_is_kept_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(SystemExit):
        smoke.main(["--keep", str(tmp_path)])
    assert "must be empty or new" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]

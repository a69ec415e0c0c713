"""The benchmark of a busy machine: what runs when, and what its page says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from zoetrope.benchmarks import busy
from zoetrope.benchmarks.busy import LOOP, busy_loops, environment, main
from zoetrope.model.runtime.threads import WAITING, usable_cores


def loops() -> list[psutil.Process]:
    """Busy loops of this process."""
    return [child for child in psutil.Process().children() if LOOP in child.cmdline()]


@pytest.mark.integration
def test_ways_run_in_turns_quiet_and_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What makes the clips is not part of this test: it takes ten seconds each time."""
    seen: list[tuple[str, int]] = []

    @contextmanager
    def quick(way: str, steps: int, folder: Path) -> Iterator[busy.Make]:
        def make() -> float:
            seen.append((way, len(loops())))
            return {"ours": 2.0, "spinning": 3.0}[way] * (1 + len(loops()))

        yield make

    monkeypatch.setattr(busy, "served", quick)
    out = tmp_path / "results" / "busy.json"
    assert main(["--service", "--rounds", "2", "--loops", "1", "--out", str(out)]) == 0
    assert seen == [("ours", 0), ("ours", 1), ("spinning", 0), ("spinning", 1)] * 2
    assert loops() == []
    record = json.loads(out.read_text())
    assert [(row["way"], row["quiet"], row["busy"], row["ratio"]) for row in record["rows"]] == [
        ("ours", [2.0, 2.0], [4.0, 4.0], 2.0),
        ("spinning", [3.0, 3.0], [6.0, 6.0], 2.0),
    ]
    assert record["goal_met"]
    page = out.with_suffix(".md").read_text()
    assert page in capsys.readouterr().out
    assert "| ours | 2.0 s (2.0, 2.0) | 4.0 s (4.0, 4.0) | 2.0 |" in page
    seen.clear()
    assert main(["--service", "--ours", "--rounds", "1"]) == 0
    assert seen == [("ours", 0), ("ours", 2)]


def test_each_way_has_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert not WAITING.keys() & environment("ours").keys(), "the process sets its own"
    assert environment("spinning")["OMP_WAIT_POLICY"] == "ACTIVE"
    assert environment("spinning")["ZOETROPE_THREADS"] == str(usable_cores())


@pytest.mark.integration
def test_loops_end_with_their_block() -> None:
    with pytest.raises(RuntimeError), busy_loops(2):
        assert len(loops()) == 2
        raise RuntimeError
    assert loops() == []


@pytest.mark.long
def test_a_clip_is_made_for_each_figure(tmp_path: Path) -> None:
    out = tmp_path / "busy.json"
    assert main(["--rounds", "1", "--steps", "2", "--loops", "1", "--out", str(out)]) == 0
    assert all(row["quiet"][0] > 0.5 for row in json.loads(out.read_text())["rows"])

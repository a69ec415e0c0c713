"""The benchmark of streaming holds what it promises: three blocks at most, equal velocities."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoetrope.benchmarks import streaming
from zoetrope.benchmarks.streaming import StreamedRow, main


def test_a_process_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ranks", "1", "--repeats", "1", "--out", str(tmp_path / "found")]) == 0
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert row["blocks"] == 12 and 1.9 < row["on_device"] <= 3 and row["equal"] and row["tokens"] == 144
    assert "velocities equal" in capsys.readouterr().out


def test_a_difference_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = StreamedRow(1, 12, 9, on_device=2.0, host_bytes=1, equal=False, resident=2.0, streamed=2.5, copies=1.0)
    monkeypatch.setattr(streaming, "gang", lambda ranks, repeats: row)
    assert main(["--ranks", "2"]) == 1
    assert "velocities DIFFER" in capsys.readouterr().out
    assert row.ratio == 0.8 and row.hidden == 0.5


@pytest.mark.long
def test_gangs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ranks", "2", "4", "--repeats", "1"]) == 0
    assert capsys.readouterr().out.count("velocities equal") == 2

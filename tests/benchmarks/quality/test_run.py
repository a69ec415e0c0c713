"""The command: what it refuses, and a small run from end to end that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest

from zoetrope.benchmarks.quality import engine
from zoetrope.benchmarks.quality.__main__ import main
from zoetrope.benchmarks.quality.report import page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--options", "fp8,best"], "--options: 'best' is not one of bf16, fp8"),
        (["--options", "guidance-0.5-0.2"], "--options: guidance_start: 0.5 must be below guidance_end, 0.2"),
        (["--options", "fast", "--steps", "4"], "--options: quality: fast needs 9 or more steps, this has 4"),
        (["--options", "nano-4step", "--steps", "9"], "nano-4step has steps of its own"),
        (["--tasks", "v2t"], "--tasks: 'v2t' must be of t2v"),
        (["--vbench", "python"], "--vbench scores the clips of --videos: give both"),
        (["--floor-count", "0"], "--floor-count: must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_measured_is_told(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err


def test_a_small_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics")
    out, videos = tmp_path / "quality", tmp_path / "clips"
    arguments = ["--steps", "1", "--tasks", "t2v", "--out", str(out), "--videos", str(videos)]
    arguments += ["--options", "bf16,tiles,neighbours", "--floor-count", "1"]

    def found() -> dict[str, Any]:
        record: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
        return record

    assert main([*arguments, "--count", "1", "--vbench", str(tmp_path / "absent")]) in (0, 1)
    first = found()
    assert {name: row["clips"] for name, row in first["options"].items()} == {"bf16": 1, "tiles": 1, "neighbours": 1}
    assert first["vbench"]["reason"].startswith("VBench did not run") and first["plot"] == "quality.png"
    assert out.with_suffix(".md").read_text() == page(first)
    (clip,) = (videos / "tiles").iterdir()
    with av.open(str(clip)) as file:
        assert file.streams.video[0].frames == 16
    assert main([*arguments, "--count", "2"]) in (0, 1)
    second = found()
    assert {name: row["clips"] for name, row in second["options"].items()} == {"bf16": 2, "tiles": 2, "neighbours": 1}
    assert [run["command"].split()[-1] for run in second["runs"]] == [str(tmp_path / "absent"), "2"]
    monkeypatch.setattr(engine, "compare", None)
    assert main([*arguments, "--count", "2"]) in (0, 1), "nothing is left to do"
    assert found()["options"] == second["options"] and found()["runs"] == second["runs"]

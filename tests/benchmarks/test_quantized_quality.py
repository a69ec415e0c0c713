"""The page about 8-bit weights says what was measured, and a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoetrope.benchmarks.quality import engine
from zoetrope.benchmarks.quality.pairs import compare, latents_psnr, summarise
from zoetrope.benchmarks.quantized_quality import NAME, main, page
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.nano.cases import held_out
from zoetrope.model.nano.measures import examine


def clips(count: int, lost: int) -> list[dict[str, Any]]:
    """The generator's own clips, some of which are those of other cases in 8 bits."""
    cases = held_out("text_to_video", find_model("nano"), count, seed=5)
    same_size = [case for case in cases if case.ideal.shape == cases[0].ideal.shape]
    made = []
    for number, case in enumerate(same_size):
        other = same_size[number - 1].ideal if number < lost else case.ideal
        apart = {"latents_error": 0.1 * (number + 1), "latents_psnr": 40.0 - number}
        made.append(compare(examine(case, case.ideal), examine(case, other), apart))
    return made


def test_psnr_of_latents() -> None:
    x = torch.tensor([-1.0, 0.0, 3.0])
    assert latents_psnr(x, x) == 100.0
    assert latents_psnr(x, x + 0.04) == pytest.approx(40.0), "a hundredth of the range"


def test_a_task_says_what_was_lost() -> None:
    made = clips(30, lost=2)
    task = summarise("text_to_video", made, NAME)
    assert task["cases"] == len(made) == 6
    row = task["measures"]["all four"]
    assert (row["exact"], row["lost"], row["won"]) == (100.0, 2, 0)
    assert row["difference"] == pytest.approx(-200 / 6, abs=1e-3) and not task["within"]
    assert task["latents_error"] == {"mean": pytest.approx(0.35), "worst": pytest.approx(0.6)}
    assert task["latents_psnr"] == {"mean": 37.5, "worst": 35.0}
    assert task["frames_psnr"]["worst"] < 30 < task["frames_psnr"]["mean"]
    whole = summarise("text_to_video", clips(30, lost=0), NAME)
    assert whole["within"] and whole["frames_psnr"]["worst"] == 100.0


def test_the_page() -> None:
    measured = {"model": "nano", "quantize": "fp8", "blocks": [1, 2, 3], "steps": 30, "seed": 5}
    where = {"command": "run me", "date": "today", "commit": "abc", "changed": False, "torch": "2", "device": "a CPU"}
    task = summarise("text_to_video", clips(30, lost=2), NAME)
    text = page({"environment": where, "measured": measured, "tasks": {"text_to_video": task}})
    assert "`run me`" in text and "commit abc" in text
    assert "| text_to_video | 6 | 35.0% (60.0%) | 37.5 dB (35.0) | " in text and "| beyond 2 points |" in text
    assert "| all four, % | 100.0 | 66.7 | -33.3 | 2, 0 |" in text


def test_an_unknown_task_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tasks", "t2v,v2t"])
    assert "--tasks: 't2v,v2t' must be of t2v, i2v" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--steps", "1", "--batch", "2", "--out", str(tmp_path / "quality")]

    def made() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / "quality-clips.json").read_text())["clips"]
        return found

    assert main([*arguments, "--count", "2", "--tasks", "t2v"]) in (0, 1)
    (first,) = made().values()
    assert len(first) == 2 and all(clip["latents_error"] > 0 for clip in first)
    assert main([*arguments, "--count", "4", "--tasks", "t2v,i2v"]) in (0, 1)
    both = made()
    assert {kind: len(clips) for kind, clips in both.items()} == {"text_to_video": 4, "image_to_video": 4}
    assert both["text_to_video"][:2] == first
    monkeypatch.setattr(engine, "compare", None)
    assert main([*arguments, "--count", "4", "--tasks", "i2v"]) in (0, 1), "nothing is left to do"
    assert made() == both

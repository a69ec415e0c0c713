"""The page about faster levels says what was measured and saved, and a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.cached_quality import NAME, main, page, record_of
from zoetrope.benchmarks.quality.pairs import compare, summarise
from zoetrope.benchmarks.quality.sampling import options_of
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.nano.cases import held_out
from zoetrope.model.nano.measures import examine


def clips(count: int, lost: int) -> list[dict[str, Any]]:
    """The generator's own clips of one size; of some the other is that of another case."""
    drawn = held_out("text_to_video", find_model("nano"), 5 * count, seed=5)
    cases = [case for case in drawn if case.ideal.shape == drawn[0].ideal.shape]
    made = []
    for number, case in enumerate(cases):
        other = cases[number - 1].ideal if number < lost else case.ideal
        apart = {"latents_error": 0.1, "latents_psnr": 40.0}
        clip = compare(examine(case, case.ideal), examine(case, other), apart)
        made.append({**clip, "forwards": [60, 28], "step_mask": "##..##"})
    return made


def test_the_page() -> None:
    measured = {"model": "nano", "steps": 30, "seed": 5}
    where = {"command": "run me", "date": "today", "commit": "abc", "changed": False, "torch": "2", "device": "a CPU"}
    record = record_of({"fast": {"text_to_video": clips(6, lost=2)}}, measured, [where])
    text = page(record)
    assert "`run me`" in text and "commit abc" in text and "## fast" in text
    assert "| text_to_video | `##..##` | 60 -> 28 | 2.14 x |" in text
    assert "| text_to_video | 6 | 10.0% (10.0%) | 40.0 dB (40.0) | " in text and "| beyond 2 points |" in text
    assert "| all four, % | 100.0 | 66.7 | -33.3 | 2, 0 |" in text


def test_one_case_of_few_is_within() -> None:
    assert summarise("text_to_video", clips(6, lost=1), NAME)["within"]
    assert not summarise("text_to_video", clips(6, lost=2), NAME)["within"]


def test_variants() -> None:
    assert options_of("fast") == {"quality": "fast"}
    assert options_of("guidance-0.1-0.6") == {"guidance_start": 0.1, "guidance_end": 0.6}
    for bad in ("exact", "guidance-", "guidance-0", "guidance-a-b"):
        with pytest.raises(ValueError):
            options_of(bad)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "t2v,v2t"], "--tasks: 't2v,v2t' must be of t2v, i2v"),
        (["--variants", "fast,best"], "--variants: 'best' is neither balanced, fast nor guidance-START-END"),
        (["--variants", "guidance-0.5-0.2"], "--variants: guidance_start: 0.5 must be below guidance_end, 0.2"),
        (["--steps", "4"], "--variants: quality: balanced needs 9 or more steps, this has 4"),
    ],
)
def test_what_cannot_be_measured_is_told(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    arguments = ["--steps", "9", "--batch", "2", "--tasks", "t2v", "--out", str(tmp_path / "quality")]

    def made() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / "quality-clips.json").read_text())["clips"]
        return found

    assert main([*arguments, "--count", "2", "--variants", "fast"]) in (0, 1)
    first = made()
    assert len(first["fast"]["text_to_video"]) == 2
    assert all(clip["latents_error"] > 0 and clip["forwards"][1] < 18 for clip in first["fast"]["text_to_video"])
    assert main([*arguments, "--count", "3", "--variants", "fast,guidance-0-0.5"]) in (0, 1)
    second = made()
    assert {name: len(kinds["text_to_video"]) for name, kinds in second.items()} == {"fast": 3, "guidance-0-0.5": 3}
    assert second["fast"]["text_to_video"][:2] == first["fast"]["text_to_video"], "kept, not made again"

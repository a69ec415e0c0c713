"""The page, the plot and what is said where something was not measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoetrope.benchmarks.quality.options import Size
from zoetrope.benchmarks.quality.pairs import compare
from zoetrope.benchmarks.quality.plot import front, plot, points_of
from zoetrope.benchmarks.quality.record import record_of, right_of
from zoetrope.benchmarks.quality.report import page
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.nano.cases import held_out
from zoetrope.model.nano.measures import examine

WHERE = {"command": "run me", "date": "today", "commit": "abc", "changed": False, "torch": "2", "device": "a CPU"}


def clips(count: int, lost: int, forwards: tuple[int, int] = (60, 60), **more: Any) -> list[dict[str, Any]]:
    """The generator's own clips of one size; of some the other is that of another case."""
    drawn = held_out("text_to_video", find_model("nano"), 5 * count, seed=5)
    cases = [case for case in drawn if case.ideal.shape == drawn[0].ideal.shape]
    made = []
    for number, case in enumerate(cases):
        other = cases[number - 1].ideal if number < lost else case.ideal
        apart = {"latents_error": 2e-7, "latents_psnr": 40.0}
        clip = compare(examine(case, case.ideal), examine(case, other), apart)
        figures = {"forwards": [*forwards], "step_mask": "", "seconds": [2.0, 0.5], "equal": number >= lost}
        made.append({**clip, **figures, "ssim": 0.9 + number / 100, "steadiness": [0.98, 0.97], **more})
    return made


def record(**more: Any) -> dict[str, Any]:
    made = record_of(
        {
            "fast": {"text_to_video": clips(6, lost=2, forwards=(60, 22), vmaf=91.0), "edit_video": []},
            "fp8": {"text_to_video": clips(6, lost=0, vmaf=95.0)},
            "neighbours": {"text_to_video": clips(6, lost=1)},
            "bf16": {},
        },
        {"fp8": Size("bytes of weights", 8_000_000, 2_000_000)},
        {"model": "nano", "steps": 30, "seed": 5},
        [{**WHERE, "command": "run me first"}, WHERE],
    )
    whole = {**made, "vmaf": {"ffmpeg": "9", "lines": 192}, "plot": None, "vbench": {"reason": "no weights"}, **more}
    kept: dict[str, Any] = json.loads(json.dumps(whole))
    return kept


def test_the_page() -> None:
    text = page(record())
    assert "`run me first`" in text and "`run me`" in text and "commit abc" in text
    assert "bf16" not in text.partition("## ")[0].partition("| option |")[2], "no clip, no row"
    fast = "| 2.73 x fewer forwards (60 -> 22) | 2.00 -> 0.50 | 100.0 -> 66.7 % | 2, 0 |"
    assert f"| `quality: fast` {fast}" in text and "0.9250 (0.9000) | 91.0 (91.0) | 0.9800 -> 0.9700 |" in text
    assert "4.00 x fewer bytes of weights (8.00 -> 2.00 MB)" in text
    assert "| each clip in a batch with another one than before | 5 of 6, differ by 2.0e-07 at most |" in text
    assert "| not measured |" in text, "VMAF of clips that have none"
    assert "| beyond 2 points |" in text and "text_to_video: " in text and "100.0 -> 66.7 %" in text
    assert "Not measured: no weights. There is no VBench total" in text


def test_what_was_not_measured_is_said() -> None:
    assert "VMAF was not measured: no ffmpeg was found." in page(record(vmaf={"reason": "no ffmpeg was found"}))
    scores = {"exact": {"motion_smoothness": 0.5}, "fast": {"motion_smoothness": 0.25}}
    text = page(record(vbench={"version": "0.1.5", "scores": scores}))
    assert "| option | motion_smoothness |" in text and "| fast | 0.2500 |" in text and "no VBench total" in text


def test_a_clip_is_right_if_everything_is() -> None:
    (first, second, *_) = clips(6, lost=1)
    assert right_of("text_to_video", first) == (True, False)
    assert right_of("text_to_video", second) == (True, True)


def test_the_front() -> None:
    points = [("a", 50.0, 1.5), ("b", 40.0, 1.4), ("c", 30.0, 3.0), ("d", 50.0, 1.2)]
    assert [point[0] for point in front(points)] == ["a", "c"]


def test_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = record()
    assert {kind: [p[0] for p in points] for kind, points in points_of(found["options"]).items()} == {
        "forwards": ["fast"],
        "bytes of weights": ["fp8"],
    }
    assert plot(found, tmp_path / "plot.png") is None
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

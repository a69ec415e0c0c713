"""The benchmark of one model measures real clips, and compares them with diffusers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoetrope.benchmarks.model_steps.__main__ import main
from zoetrope.benchmarks.model_steps.checkpoints import checkpoint
from zoetrope.benchmarks.model_steps.clips import DENSE, MeasuredClip, parse_clip, tokens_of
from zoetrope.benchmarks.model_steps.peer import mixed
from zoetrope.benchmarks.model_steps.resources import working_bytes
from zoetrope.benchmarks.part_timer import PartTimer

SMALL = ["--clip", "32x32x5", "--steps", "2", "--repeats", "1"]


def run(out: Path, *arguments: str) -> dict[str, Any]:
    assert main([*SMALL, *arguments, "--out", str(out)]) == 0
    found: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    return found


def test_a_dense_model_is_compared_with_diffusers_on_the_same_weights(tmp_path: Path) -> None:
    record = run(tmp_path / "found", "--ways", "eager", "--jobs", "2")
    (clip,) = record["clips"]
    assert (clip["size"], clip["frames"], clip["tokens"], clip["forwards"]) == ("32x32", 5, 2 * 2 * 2, 2)
    assert sum(clip["shares"].values()) == pytest.approx(1)
    assert {"self-attention", "cross-attention", "feed-forward", "patch embedding", "head"} < set(clip["shares"])
    assert "experts" not in clip["shares"]
    assert all(clip["shares"][part] > 0 for part in ("self-attention", "cross-attention", "feed-forward"))
    assert sum(clip["operations"].values()) == pytest.approx(1) and min(clip["operations"].values()) > 0
    assert clip["roofline"]["seconds"] == pytest.approx(sum(clip["roofline"]["parts"].values()))
    assert record["model"]["parameters"] * 4 == record["model"]["weight_bytes"]
    (row,) = record["diffusers"]["rows"]
    assert row["way"] == "eager" and row["difference"] < 1e-5
    assert record["diffusers"]["batch"]["jobs"] == 2
    page = (tmp_path / "found.md").read_text()
    assert "| eager | 32x32, 5 frames | 8 |" in page and "2 mixed small clips" in page
    assert (tmp_path / "found.png").is_file()


@pytest.mark.long
def test_compiled_clips_are_those_of_eager_ones(tmp_path: Path) -> None:
    found = run(tmp_path / "found", "--jobs", "0")["diffusers"]
    assert [row["way"] for row in found["rows"]] == ["eager", "compiled"]
    assert found["compile_seconds"] > 0 and found["batch"] is None
    assert all(row["difference"] < 1e-4 for row in found["rows"])
    torch._dynamo.reset()


def test_experts_are_a_part_and_nothing_is_compared_with_diffusers(tmp_path: Path) -> None:
    assert main(["--model", "nano", "--clip", "40x24x5", *SMALL[2:], "--out", str(tmp_path / "nano")]) == 0
    record = json.loads((tmp_path / "nano.json").read_text())
    assert {"experts", "feed-forward"} < set(record["clips"][0]["shares"])
    assert record["diffusers"]["rows"] == []
    assert "Not run: diffusers has no token-routed experts." in (tmp_path / "nano.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--clip", "96x64"], "--clip is '96x64': it must be WIDTHxHEIGHTxFRAMES"),
        (["--model", "no-such-model"], "model 'no-such-model' is neither"),
        (["--model", "wan2.2-i2v-a14b"], "it must make clips of text alone"),
        (["--model", "nano", "--clip", "40x24x900"], "900"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoetrope.model.pipeline.LocalPipeline.load", None)
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


def test_no_two_clips_have_the_prompts_of_another_and_sizes_are_as_named() -> None:
    with checkpoint("") as found:
        specs = [MeasuredClip("96x64", 9).spec(found.card, 2) for _ in range(2)]
        assert len({text for spec in specs for text in (spec.task.prompt, spec.negative_prompt)}) == 4
        counts = [tokens_of(clip.spec(found.card, 2), (1, 2, 2)) for clip in DENSE]
    assert counts == [72, 180, 720, 1440, 2560]
    assert parse_clip("96x64x9") == DENSE[0]
    assert len({(clip.size, clip.steps) for clip in mixed(12)}) == 12


def test_memory_is_that_of_the_call_alone() -> None:
    device, size = torch.device("cpu"), 64 << 20

    def take() -> float:
        return float(torch.ones(size // 4).sum())

    taken = working_bytes(device, take)
    assert taken is not None and 0.9 * size < taken < 1.5 * size


def test_a_timer_adds_up_the_calls_of_a_part_and_lets_go() -> None:
    ticks = iter(range(100))
    first, second = torch.nn.Identity(), torch.nn.Identity()
    timer = PartTimer({"both": [first, second]}, torch.device("cpu"), lambda: next(ticks))
    second(first(torch.ones(1)))
    assert timer.take() == {"both": 2.0} and timer.take() == {}
    timer.close()
    first(torch.ones(1))
    assert timer.take() == {}

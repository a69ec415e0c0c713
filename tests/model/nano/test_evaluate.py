"""The evaluation: a pipeline that makes what is asked passes; one that misreads a thing fails in that alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.nano.conftest import CARD
from tests.model.nano.helpers import other, redraw
from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder
from zoetrope.model.media.inputs import Inputs
from zoetrope.model.nano import evaluate
from zoetrope.model.nano.cases import Frames, NanoCase, held_out
from zoetrope.model.nano.evaluate import OnStep, generate
from zoetrope.model.nano.measures import MEASURES, examine, psnr
from zoetrope.model.nano.reconstruction import autoencoder_psnr
from zoetrope.model.nano.report import markdown, summarise, summarise_psnr
from zoetrope.model.nano.samples import TASKS, TaskKind
from zoetrope.model.nano.world import BACKGROUND_NAMES, COLOR_NAMES, DIRECTIONS, SHAPES
from zoetrope.model.request.specs import VideoSpec

Change = Callable[[NanoCase], Frames]


class Illustrator:
    """Stands in for the pipeline: draws what each case wants, or a changed clip; its latents are the frames."""

    def __init__(self, cases: list[NanoCase], change: Change = lambda case: case.ideal) -> None:
        self.cases = {case.spec.seed: case for case in cases}
        self.change = change
        self.batches: list[int] = []

    def run_batch(self, specs: list[VideoSpec], on_step: OnStep, inputs: list[Inputs]) -> list[torch.Tensor]:
        self.batches.append(len(specs))
        for step in range(specs[0].steps):
            on_step(step + 1, specs[0].steps)
        cases = [self.cases[spec.seed] for spec in specs]
        assert all(case.inputs is given for case, given in zip(cases, inputs, strict=True))
        return [torch.from_numpy(self.change(case).copy()) for case in cases]

    def decode(self, latents: torch.Tensor) -> Iterator[Frames]:
        yield latents[:1].numpy()
        yield latents[1:].numpy()


def back_again(case: NanoCase) -> Frames:
    """Starts as wanted, then goes the other way; ends as wanted, too."""
    return np.concatenate([case.ideal[:1], case.ideal[-2:0:-1], case.ideal[-1:]])


def dimmed(*frames: int) -> Change:
    def change(case: NanoCase) -> Frames:
        clip = case.ideal.copy()
        for index in frames:
            clip[index] = (clip[index] * 0.8 + 20).astype(np.uint8)
        return clip

    return change


def still(case: NanoCase) -> Frames:
    return case.ideal[:1].repeat(len(case.ideal), axis=0)


def recolored(case: NanoCase) -> Frames:
    """Other colours, none of which is the one that was there; the backgrounds have no colour."""
    return np.roll(case.ideal, 1, axis=3)


def on_another_background(case: NanoCase) -> Frames:
    return redraw(case, background=other(BACKGROUND_NAMES, case.wanted[0]["background"]))


def reshaped(case: NanoCase) -> Frames:
    return redraw(case, shape=other(SHAPES, case.wanted[0]["shape"]))


def lanes(case: NanoCase) -> int:
    """The axis across the lanes."""
    return 1 if DIRECTIONS[case.wanted[0]["direction"]][1] == 0 else 2


def only_first(case: NanoCase) -> Frames:
    """The second object of two is missing, of one in a picture nothing is."""
    clip = case.ideal.copy()
    if len(case.wanted) == 2:
        half = clip.shape[lanes(case)] // 2
        (clip[:, half:] if lanes(case) == 1 else clip[:, :, half:])[:] = clip[0, 0, 0]
    return clip


def lanes_swapped(case: NanoCase) -> Frames:
    return np.roll(case.ideal, case.ideal.shape[lanes(case)] // 2, lanes(case)) if len(case.wanted) == 2 else case.ideal


def source_itself(case: NanoCase) -> Frames:
    assert case.inputs.video is not None
    return case.inputs.video.frames


T2V, I2V, ENDS, GRID, R2V, EDIT = TASKS
ONE_COLOR, ONE_SHAPE = "color, one object meant", "shape, one object meant"
BOTH = "both present (colors, each in its lane)"
OBEYED = {"color edits obeyed", "background edits obeyed", "edits by reference obeyed"}
MOTION = {f"motion kept, {kind}" for kind in ("color edits", "background edits", "edits by reference")}


@pytest.mark.parametrize("kind", TASKS)
def test_a_perfect_pipeline_scores_all(kind: TaskKind) -> None:
    cases = held_out(kind, CARD, 20, 3, steps=2)
    illustrator, seen = Illustrator(cases), list[tuple[int, int]]()
    outcomes = generate(illustrator, cases, 8, lambda step, steps: seen.append((step, steps)))
    assert illustrator.batches == [8, 8, 4]
    assert seen == [(step, 6) for step in range(1, 7)]
    summary = summarise(outcomes)
    assert summary["met"]
    assert summary["cases"] == 20
    perfect = {"%": 100, "dB": 100, "IoU": pytest.approx(1, abs=0.01)}
    for name, row in summary["measures"].items():
        assert row["value"] == perfect[row["unit"]], name
        assert "classes" not in row
    assert [name for name, row in summary["measures"].items() if row["target"] is not None], "nothing would be shown"


@pytest.mark.parametrize(
    ("kind", "change", "missed"),
    [
        (T2V, recolored, {"color"}),
        (T2V, on_another_background, {"background"}),
        (T2V, reshaped, {"shape"}),
        (T2V, back_again, {"direction"}),
        (T2V, still, {"direction"}),
        (I2V, dimmed(0), {"first frame"}),
        (I2V, back_again, {"direction"}),
        (I2V, dimmed(-1), set()),
        (ENDS, dimmed(0), {"first frame"}),
        (ENDS, dimmed(-1), {"last frame"}),
        (ENDS, dimmed(8), set()),
        (GRID, recolored, {"object of the panels"}),
        (GRID, reshaped, {"object of the panels"}),
        (GRID, back_again, set()),
        (R2V, recolored, {ONE_COLOR, BOTH}),
        (R2V, only_first, {BOTH}),
        (R2V, lanes_swapped, {BOTH}),
        (EDIT, source_itself, OBEYED | {"motion kept, edits by reference"}),
        (EDIT, still, MOTION),
        (EDIT, back_again, MOTION),
        (EDIT, reshaped, {"edits by reference obeyed", *MOTION}),
        (EDIT, recolored, {"color edits obeyed", "edits by reference obeyed"}),
        (EDIT, on_another_background, {"background edits obeyed"}),
    ],
)
def test_what_is_misread_is_missed_and_nothing_else(kind: TaskKind, change: Change, missed: set[str]) -> None:
    cases = held_out(kind, CARD, 20, 4, steps=1)
    summary = summarise(generate(Illustrator(cases, change), cases, 20, lambda step, steps: None))
    rows = {name: row for name, row in summary["measures"].items() if row["target"] is not None}
    assert {name for name, row in rows.items() if not row["met"]} == missed
    assert summary["met"] == (not missed)
    for name, row in rows.items():
        if name not in missed and row["unit"] == "%":
            assert row["value"] == 100, name


def test_a_wrong_shape_of_one_reference_is_missed() -> None:
    cases = held_out(R2V, CARD, 20, 4, steps=1)

    def change(case: NanoCase) -> Frames:
        return case.ideal if len(case.wanted) == 2 else reshaped(case)

    rows = summarise(generate(Illustrator(cases, change), cases, 20, lambda step, steps: None))["measures"]
    assert {name for name, row in rows.items() if row["met"] is False} == {ONE_SHAPE}
    assert rows["color and shape, one picture"]["value"] == rows["color and shape, one of two pictures"]["value"] == 0


def test_frames_past_the_file_are_not_judged_but_for_the_last() -> None:
    (case,) = held_out(T2V, CARD, 1, 5)
    outcome = examine(case, case.ideal)
    assert outcome.frames.shape[0] == 17
    assert len(outcome.verdicts[0].masks) == case.spec.frames == 16


def test_shares_and_means_are_those_of_the_definition() -> None:
    cases = held_out(T2V, CARD, 20, 6, steps=1)
    wrong = {case.spec.seed for case in cases[:3]}

    def change(case: NanoCase) -> Frames:
        color = other(COLOR_NAMES, case.wanted[0]["color"]) if case.spec.seed in wrong else None
        return redraw(case, color=color)

    outcomes = generate(Illustrator(cases, change), cases, 20, lambda step, steps: None)
    rows = summarise(outcomes)["measures"]
    assert (rows["color"]["value"], rows["all four"]["value"]) == (85.0, 85.0)
    classes = rows["color"]["classes"]
    assert sum(row["cases"] for row in classes.values()) == 20
    for case in cases[:3]:
        wanted = case.wanted[0]["color"]
        assert classes[wanted]["percent"] < 100
        assert other(COLOR_NAMES, wanted) in classes[wanted]["seen_instead"]
    ends = held_out(I2V, CARD, 2, 6)
    half = [examine(ends[0], ends[0].ideal), examine(ends[1], dimmed(0)(ends[1]))]
    row = summarise(half)["measures"]["first frame"]
    worst = psnr(dimmed(0)(ends[1])[0], ends[1].ideal[0])
    assert row["worst"] == pytest.approx(worst, abs=1e-3)
    assert row["value"] == pytest.approx((100 + worst) / 2, abs=1e-3), "the mean of dB, not the dB of the mean"


def test_psnr_is_that_of_the_definition() -> None:
    black, grey = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 51, np.uint8)
    assert psnr(black, grey) == pytest.approx(-20 * math.log10(0.2))
    assert psnr(grey, grey) == 100
    with pytest.raises(ValueError, match="cannot be compared"):
        psnr(black, grey[:2])


def test_the_psnr_of_the_autoencoder_is_that_of_the_definition(autoencoder: LinearAutoencoder) -> None:
    class Dimmer(LinearAutoencoder):
        """Gives the clip back, each pixel 0.1 (of 0..1) off."""

        def __init__(self) -> None: ...

        def encode(self, clip: torch.Tensor) -> torch.Tensor:
            return clip

        def decode_stream(self, latents: torch.Tensor, *_: object) -> Iterator[torch.Tensor]:
            yield latents[:, :1] + 0.2
            yield latents[:, 1:] - 0.2

    values = autoencoder_psnr(Dimmer(), CARD, 5, 1)
    assert [size for size, _ in values] == [f"{w}x{h}" for w, h in CARD.native_sizes]
    assert all(math.isclose(value, 20, abs_tol=1e-3) for _, value in values)
    measured = [value for _, value in autoencoder_psnr(autoencoder, CARD, 5, 1)]
    assert all(28 < value < 45 for value in measured), measured


def test_the_report_names_what_falls_short() -> None:
    cases = held_out(T2V, CARD, 30, 4, steps=1)
    circles = sum(c.wanted[0]["shape"] == "circle" for c in cases)

    def change(case: NanoCase) -> Frames:
        return redraw(case, shape="square") if case.wanted[0]["shape"] == "circle" else case.ideal

    task = summarise(generate(Illustrator(cases, change), cases, 30, lambda step, steps: None))
    vae = summarise_psnr([("40x24", 31.0), ("32x32", 32.0)])
    assert (vae["psnr_db"], vae["worst_psnr_db"], vae["met"]) == (31.5, 31.0, False)
    text = markdown({"tasks": {T2V: task}, "autoencoder": vae}, "COMMAND")
    assert text.startswith("`COMMAND`\n")
    assert f"| circle | {circles} | 0.0 % | square {circles} |" in text
    assert "| color | 100.0 % | 95.0 % | met |" in text
    assert f"| shape | {100 - 100 * circles / 30:.1f} % | 90.0 % | missed |" in text
    assert "| PSNR | 31.50 dB (worst 31.00 dB) | 32.00 dB | missed |" in text
    assert "| at 40x24 | 31.00 dB | | |" in text
    assert "color below target" not in text


def test_outcomes_of_several_tasks_make_no_table() -> None:
    mixed = [examine(case, case.ideal) for kind in (T2V, I2V) for case in held_out(kind, CARD, 1, 1)]
    with pytest.raises(ValueError, match="of 2 tasks"):
        summarise(mixed)
    with pytest.raises(ValueError, match="no cases for"):
        summarise([examine(case, case.ideal) for case in held_out(EDIT, CARD, 1, 1)])


def test_every_task_has_targets_and_no_two_rows_share_a_name() -> None:
    names = [(m.task, m.name) for m in MEASURES]
    assert len(names) == len(set(names))
    assert {m.task for m in MEASURES if m.target is not None} == set(TASKS)


def test_the_command_measures_all_tasks_and_fails_below_target(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "PSNR_CLIPS", 5)
    monkeypatch.setattr(evaluate, "usable_cores", lambda: 1)  # keeps this test at one thread
    files = {name: tmp_path / f"out.{name}" for name in ("json", "markdown")} | {"sheet": tmp_path / "sheets"}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    code = evaluate.main(["--model", str(toy_run), "--count", "4", "--batch", "4", "--steps", "1", *options])
    assert code == 1, "three steps of training are not enough"
    summary = json.loads(files["json"].read_text())
    assert (summary["steps"], summary["training_steps"], summary["met"]) == (1, 3, False)
    assert list(summary["tasks"]) == list(TASKS)
    assert all(task["cases"] == 4 for task in summary["tasks"].values())
    table, printed = files["markdown"].read_text(), capsys.readouterr().out
    for kind in TASKS:
        assert f"| {kind}, 4 cases | measured | target | |" in table
        assert f"| {kind}, 4 cases | measured | target | |" in printed
        with Image.open(files["sheet"] / f"{kind}.png") as sheet:
            assert sheet.width > 800
    assert printed.splitlines()[-1].startswith("missed: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "/nowhere"], "/nowhere: the file is missing"),
        (["--seed", "20261121"], "was used in training"),
        (["--seed", "20261122"], "was used in training"),
        (["--count", "0"], "must be at least 4"),
        (["--tasks", "edit", "--count", "2"], "must be at least 3"),
        (["--batch", "0"], "must be at least 1"),
        (["--tasks", "t2v,opera"], "'opera' is not one of t2v"),
        (["--guidance", "-1"], "guidance"),
    ],
)
def test_bad_options_are_answered_in_one_line(
    options: list[str], message: str, toy_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--model", str(toy_run), *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_sheets_go_into_a_directory_or_beside_a_file() -> None:
    assert evaluate.sheet_path(Path("docs"), T2V, alone=True) == Path("docs/text_to_video.png")
    assert evaluate.sheet_path(Path("docs/nano.png"), T2V, alone=True) == Path("docs/nano.png")
    assert evaluate.sheet_path(Path("docs/nano.png"), T2V, alone=False) == Path("docs/nano-text_to_video.png")

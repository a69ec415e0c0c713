"""The evaluation: a pipeline that draws what the prompt says passes, others fail with the reason in the report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import pipeline
from model.autoencoder import LinearAutoencoder
from model.nano import evaluate
from model.nano.evaluate import Frames, OnStep, autoencoder_psnr, generate, held_out, markdown, summarise
from model.nano.sheet import contact_sheet
from model.nano.world import BACKGROUND_NAMES, COLOR_NAMES, DIRECTION_NAMES, SHAPES, render, sample_scenes
from model.presets import NANO_CARD
from model.tasks import InvalidRequest, ModelCard, VideoSpec
from tests.model.nano.helpers import pixels

CARD = ModelCard(
    name="nano",
    directory="",
    tasks=("text_to_video",),
    size_multiple=16,
    spatial=8,
    temporal=4,
    latent_channels=48,
    **NANO_CARD,
)


class Illustrator:
    """Stands in for the pipeline: reads the prompt and draws it; its latents are the frames."""

    def __init__(self, misread: Callable[[str], str] = lambda prompt: prompt) -> None:
        self.misread = misread
        self.batches: list[int] = []

    def run_batch(self, specs: list[VideoSpec], on_step: OnStep) -> list[torch.Tensor]:
        self.batches.append(len(specs))
        for step in range(specs[0].steps):
            on_step(step + 1, specs[0].steps)
        return [self._draw(spec) for spec in specs]

    def decode(self, latents: torch.Tensor) -> Iterator[Frames]:
        yield latents[:1].numpy()
        yield latents[1:].numpy()

    def _draw(self, spec: VideoSpec) -> torch.Tensor:
        words = self.misread(spec.prompt).replace(",", "").split()
        size = (spec.native_height, spec.native_width, spec.model_frames)
        generator = torch.Generator().manual_seed(spec.seed)

        def index(names: tuple[str, ...]) -> torch.Tensor:
            return torch.tensor([next(i for i, name in enumerate(names) if name in words)])

        direction = index(DIRECTION_NAMES)
        scenes = sample_scenes(1, *size, generator)
        while not torch.equal(scenes.direction, direction):  # the way has to fit into the frame
            scenes = sample_scenes(1, *size, generator)
        scenes = scenes.with_(color=index(COLOR_NAMES), shape=index(SHAPES), background=index(BACKGROUND_NAMES))
        return torch.from_numpy(pixels(render(scenes, *size)[0]))


def test_cases_follow_from_the_seed_and_cover_all_sizes() -> None:
    cases = held_out(CARD, 20, 1, None, None)
    assert cases == held_out(CARD, 20, 1, None, None)
    assert cases != held_out(CARD, 20, 2, None, None)
    assert {(c.spec.native_width, c.spec.native_height) for c in cases} == set(CARD.native_sizes)
    assert all(c.spec.width == c.spec.native_width for c in cases), "judged at the native size, nothing is scaled"
    assert len({c.spec.seed for c in cases}) == 20
    assert (cases[0].spec.steps, cases[0].spec.guidance) == (CARD.default_steps, CARD.default_guidance)
    assert all(set(c.wanted.values()) <= set(c.spec.prompt.replace(",", "").split()) for c in cases)
    with pytest.raises(InvalidRequest, match="steps"):
        held_out(CARD, 1, 1, 0, None)


def test_a_perfect_pipeline_scores_all() -> None:
    illustrator = Illustrator()
    seen: list[tuple[int, int]] = []
    outcomes = generate(illustrator, held_out(CARD, 7, 3, 2, None), 3, lambda step, steps: seen.append((step, steps)))
    assert illustrator.batches == [3, 3, 1]
    assert seen == [(step, 6) for step in range(1, 7)]
    assert all(len(o.frames) == o.case.spec.frames == 16 for o in outcomes), "what the file would not show is cut"
    summary = summarise(outcomes, [("80x80", 33.0), ("80x80", 35.0)])
    assert summary["met"]
    assert summary["all_four_percent"] == 100
    assert all(part["percent"] == 100 and "classes" not in part for part in summary["parts"].values())
    assert summary["autoencoder"]["psnr_db"] == 34.0
    assert summary["autoencoder"]["worst_psnr_db"] == 33.0


def test_what_falls_short_is_named_by_class() -> None:
    illustrator = Illustrator(lambda prompt: prompt.replace("circle", "square"))
    outcomes = generate(illustrator, held_out(CARD, 30, 4, 1, None), 30, lambda step, steps: None)
    circles = sum(o.case.wanted["shape"] == "circle" for o in outcomes)
    summary = summarise(outcomes, [("80x80", 31.0)])
    assert not summary["met"]
    shape = summary["parts"]["shape"]
    assert shape["percent"] == pytest.approx(100 * (30 - circles) / 30, abs=0.01)
    assert shape["classes"]["circle"] == {"percent": 0, "clips": circles, "seen_instead": {"square": circles}}
    assert summary["parts"]["color"]["met"]
    text = markdown(summary, "COMMAND")
    assert f"| circle | {circles} | 0.0 % | square {circles} |" in text
    assert "| color | 100.0 % | 95 % |" in text
    assert "31.00 dB" in text
    assert "color below target" not in text


def test_psnr_is_that_of_the_definition(autoencoder: LinearAutoencoder) -> None:
    class Dimmer(LinearAutoencoder):
        """Gives the clip back, each pixel 0.1 (of 0..1) off."""

        def __init__(self) -> None: ...

        def encode(self, clip: torch.Tensor) -> torch.Tensor:
            return clip

        def decode_stream(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
            yield latents[:, :1] + 0.2
            yield latents[:, 1:] - 0.2

    values = autoencoder_psnr(Dimmer(), CARD, 5, 1)
    assert [size for size, _ in values] == [f"{w}x{h}" for w, h in CARD.native_sizes]
    assert all(math.isclose(value, 20, abs_tol=1e-3) for _, value in values)
    assert all(28 < value < 40 for _, value in autoencoder_psnr(autoencoder, CARD, 5, 1))


def test_the_command_writes_its_reports_and_fails_below_target(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "PSNR_CLIPS", 5)
    monkeypatch.setattr(pipeline, "configure_torch", lambda: torch.device("cpu"))  # keeps this test at one thread
    files = {name: tmp_path / f"out.{name}" for name in ("json", "markdown", "sheet")}
    files["sheet"] = files["sheet"].with_suffix(".png")
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    code = evaluate.main(["--model", str(toy_run), "--count", "3", "--batch", "2", "--steps", "1", *options])
    assert code == 1, "three steps of training are not enough"
    summary = json.loads(files["json"].read_text())
    assert (summary["clips"], summary["steps"], summary["training_steps"]) == (3, 1, 3)
    assert files["markdown"].read_text() in capsys.readouterr().out
    with Image.open(files["sheet"]) as sheet:
        assert sheet.width > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "/nowhere"], "model_index.json"),
        (["--seed", "20261121"], "was used in training"),
        (["--seed", "20261122"], "was used in training"),
        (["--count", "0"], "at least 1"),
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


def test_a_contact_sheet_shows_clips_of_all_sizes() -> None:
    clips = [np.full((9, h, w, 3), (200, 30, 30), np.uint8) for w, h in CARD.native_sizes]
    sheet = contact_sheet(clips, ["a red circle moving right on a white background " * 3] * len(clips))
    shares = np.asarray(sheet).reshape(-1, 3)
    assert float((shares == (200, 30, 30)).all(1).mean()) > 0.3
    assert sheet.height > 3 * 128, "five clips, three rows"

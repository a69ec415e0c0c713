"""A folder with random weights is a model like any other: found, checked, conditioned, stepped and decoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fixtures.small_presets import small_preset
from zoetrope.benchmarks.random_checkpoint import main, write_random_checkpoint
from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.checks import check_files
from zoetrope.model.catalog.model_card import scheduler_config, transformer_config
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import PRESETS, all_presets, family_of
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.media.inputs import Clip, Inputs, Picture
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import ModelCard, parse_request

RANDOM = np.random.default_rng(0)
PICTURE = Picture(RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8))
CLIP = Clip(RANDOM.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8), 16)
# Fields of each kind of task, and what stands behind them.
TASKS: dict[str, tuple[dict[str, Any], Inputs]] = {
    "text_to_video": ({}, Inputs()),
    "image_to_video": ({"image": "a"}, Inputs(first=PICTURE)),
    "first_last_frame": ({"first_frame": "a", "last_frame": "b"}, Inputs(first=PICTURE, last=PICTURE)),
    "grid_to_video": ({"panels": ["a"] * 9}, Inputs(panels=(PICTURE,) * 9)),
    "reference_to_video": ({"references": ["a"]}, Inputs(references=(PICTURE,))),
    "edit_video": ({"video": "a"}, Inputs(video=CLIP)),
}
NAMES = sorted(PRESETS)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelCard]:
    """Of all presets, narrow ones."""
    root, made = tmp_path_factory.mktemp("random"), {}
    for name in NAMES:
        write_random_checkpoint(small_preset(PRESETS[name]), root / name)
        made[name] = find_model(str(root / name))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_that_of_the_preset(cards: dict[str, ModelCard], name: str) -> None:
    card, preset = cards[name], PRESETS[name]
    check_files(card)
    assert card.name == f"{name}-random-weights"
    assert (card.latent_channels, card.spatial, card.temporal) == (preset.vae.z_dim, preset.vae.spatial, 4)
    assert card.conditioner == family_of(name).conditioner and card.tasks == family_of(name).tasks(preset.config)
    assert (card.fps, card.default_steps) == (preset.sampling.fps, preset.sampling.steps)
    assert (card.default_guidance, card.boundary) == (preset.sampling.guidance, preset.sampling.boundary)
    assert scheduler_config(card)["flow_shift"] == preset.sampling.shift


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_served(cards: dict[str, ModelCard], name: str) -> None:
    card = cards[name]
    pipeline = LocalPipeline.load(card)
    for kind in card.tasks:
        fields, inputs = TASKS[kind]
        task = {"kind": kind, "prompt": "a red circle", **fields}
        request = parse_request({"task": task, "size": "64x64", "frames": 5, "steps": 1, "seed": 3})
        spec = resolve(request, card, 0)
        (latents,) = pipeline.run(spec, inputs)
        assert tuple(latents.shape) == spec.latent_shape and bool(latents.isfinite().all()), kind
        frames = np.concatenate(list(pipeline.decode(latents)))
        assert frames.shape == (5, 64, 64, 3), kind


def test_a_preset_at_full_size_takes_no_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "wan2.7-27b"
    assert main(["--preset", "wan2.7-27b", "--out", str(out), "--seed", "7"]) == 0
    assert "random weights" in capsys.readouterr().out
    card = find_model(str(out))
    check_files(card)
    (part,) = read_transformers(out)
    assert transformer_config(part) == PRESETS["wan2.7-27b"].config
    assert part.random is not None and part.random.seed == 7
    vae = json.loads((out / "vae" / "config.json").read_text())
    assert (vae["z_dim"], vae["scale_factor_spatial"], vae["is_residual"]) == (48, 16, True)
    assert (vae["latents_mean"][0], vae["latents_std"][-1]) == (-0.2289, 0.7744)
    assert json.loads((out / "text_encoder" / "config.json").read_text())["d_model"] == 4096
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < 30e6
    assert not list(tmp_path.glob(".*")), "nothing is left beside it"


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    preset = small_preset(PRESETS["wan2.1-t2v-1.3b"])
    for folder, state in (("a", 1), ("b", 2)):
        torch.manual_seed(state)
        write_random_checkpoint(preset, tmp_path / folder, seed=4)
    first, second = tmp_path / "a", tmp_path / "b"
    names = sorted(path.relative_to(first) for path in first.rglob("*.*") if path.is_file())
    assert len(names) >= 8
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_what_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = small_preset(PRESETS["wan2.1-t2v-1.3b"])
    with pytest.raises(
        ModelError, match=r"R-1\.3B: a folder with this name would be detected as bernini-r-1\.3b; name"
    ):
        write_random_checkpoint(preset, tmp_path / "Bernini-R-1.3B")
    with pytest.raises(ModelError, match="is not a directory"):
        write_random_checkpoint(preset, tmp_path / "missing" / "bernini")
    with pytest.raises(ModelError, match="autoencoder linear is not one of Wan's"):
        write_random_checkpoint(all_presets()["nano"], tmp_path / "nano")
    (tmp_path / "there").touch()
    assert main(["--preset", "wan2.1-t2v-1.3b", "--out", str(tmp_path / "there")]) == 2
    assert f"error: {tmp_path / 'there'} already exists" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"there"}
    with pytest.raises(SystemExit):
        main(["--preset", "wan2.1-t2v-1.3b", "--out", str(tmp_path / "x"), "--std", "0"])
    assert "--std must be above 0 and finite, not 0.0" in capsys.readouterr().err

"""Clips and captions to a dataset that training takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.random_checkpoints import write_t2v
from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.model_card import transformer_config
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_autoencoder, load_text_encoder
from zoetrope.model.training.dataset import LatentDataset
from zoetrope.serving.cli import main
from zoetrope.serving.media import VideoWriter, read_clip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_t2v(folder)
    return folder


def write_clips(folder: Path) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(4)
    for name, size, frames in (("cat", (64, 32), 12), ("dog", (32, 48), 4)):
        with VideoWriter(folder / f"{name}.mp4", size[0], size[1], 8, "mp4", {}) as writer:
            writer.write(generator.integers(0, 256, (frames, size[1], size[0], 3), dtype=np.uint8))
        (folder / f"{name}.txt").write_text(f"a red {name}\n")
    return folder


def prepare(clips: Path, out: Path, checkpoint: Path, *more: str) -> int:
    return main(["prepare", str(clips), str(out), "--model", str(checkpoint), "--size", "32x32", *more])


def test_a_folder_of_clips_becomes_a_dataset(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, out = write_clips(tmp_path / "clips"), tmp_path / "data"
    assert prepare(clips, out, checkpoint, "--frames", "9", "--fps", "8") == 0
    assert capsys.readouterr().out == f"{out}: 2 clips\n"
    assert {path.name for path in out.iterdir()} == {f"{n}.safetensors" for n in ("cat", "dog", "empty-prompt")}
    card = find_model(str(checkpoint))
    data = LatentDataset(out, transformer_config(read_transformers(checkpoint)[0]))
    assert [path.stem for path in data.paths] == ["cat", "dog"]
    text = load_text_encoder(card, CPU)
    for index, frames in ((0, 9), (1, 1)):  # of four frames one makes a whole latent frame
        latents, prompt = data[index]
        assert latents.shape == (16, 1 + (frames - 1) // 4, 4, 4)
        name = data.paths[index].stem
        assert torch.equal(prompt, text.encode([f"a red {name}"])[0])
        clip = read_clip(clips / f"{name}.mp4", fps=8, max_seconds=5, size=(32, 32)).frames[:frames]
        pixels = torch.from_numpy(clip).permute(3, 0, 1, 2).float() / 127.5 - 1
        assert torch.allclose(latents, load_autoencoder(card, CPU).encode(pixels), atol=1e-5)
    assert torch.equal(load_file(out / "empty-prompt.safetensors")["text"], text.encode([""])[0])


@pytest.mark.parametrize(
    ("damage", "more", "message"),
    [
        (lambda d: (d / "cat.txt").unlink(), (), "cat.txt is missing, the caption of cat.mp4"),
        (lambda d: (d / "cat.txt").write_text(" \n"), (), "cat.txt is empty"),
        (lambda d: (d / "cat.txt").write_bytes(b"\xff\xfe\xff"), (), "cat.txt cannot be read"),
        (lambda d: (d / "cat.mp4").rename(d / "dog.mkv"), (), "the name dog is already taken"),
        (lambda d: [p.unlink() for p in d.iterdir()], (), "has no clips: NAME.mp4"),
        (lambda d: (d / "cat.mp4").write_bytes(b"no video"), (), "clips: cannot read"),
        (lambda d: None, ("--frames", "10"), "frames: 10 is not 1 modulo 4"),
        (lambda d: None, ("--size", "32x40"), "size: height 40 is not a positive multiple of 16"),
        (lambda d: None, ("--size", "large"), "size: 'large' is not WIDTHxHEIGHT"),
        (lambda d: None, ("--fps", "0"), "fps: 0 must be above 0"),
        (lambda d: None, ("--model", "nowhere"), "model: 'nowhere' is neither a preset"),
    ],
)
def test_what_cannot_be_prepared_is_named(
    tmp_path: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    more: tuple[str, ...],
    message: str,
) -> None:
    clips = write_clips(tmp_path / "clips")
    damage(clips)
    assert prepare(clips, tmp_path / "data", checkpoint, *more) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not list(tmp_path.glob("data/[!e]*"))

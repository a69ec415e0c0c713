"""What a dataset must be like, and what is said where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.model.training.toys import CONFIG, write_dataset
from zoetrope.model.training.dataset import DatasetSource, Draws, LatentDataset
from zoetrope.model.training.errors import TrainingError


def folder(root: Path) -> Path:
    return write_dataset(root / "clips", [(1, 4, 4), (2, 4, 4)], CONFIG.in_channels, CONFIG.text_dim)


def write(path: Path, **shapes: tuple[int, ...]) -> None:
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path / "0.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: write(d, text=(6, 8)), r"0\.safetensors: lacks latents \[C, T, H, W\]"),
        (lambda d: write(d, latents=(4, 1, 4, 4)), r"0\.safetensors: lacks text"),
        (lambda d: write(d, latents=(4, 4, 4), text=(6, 8)), r"latents has shape \[4, 4, 4\], expected"),
        (lambda d: write(d, latents=(4, 1, 4, 4), text=(0, 8)), r"text has shape \[0, 8\]"),
        (lambda d: write(d, latents=(4, 1, 4, 4), text=(6, 9)), "text is 9 wide, this network takes 8"),
        (lambda d: write(d, latents=(16, 1, 4, 4), text=(6, 8)), "latents have 16 channels, this network 4"),
        (
            lambda d: write(d, latents=(4, 1, 4, 5), text=(6, 8)),
            r"\[1, 4, 5\] do not divide into patches of",
        ),
        (lambda d: (d / "0.safetensors").write_bytes(b"short"), r"0\.safetensors: cannot be read as safetensors"),
        (lambda d: [p.unlink() for p in d.glob("[0-9]*")], "holds no clip"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    clips = folder(tmp_path)
    damage(clips)
    with pytest.raises(TrainingError, match=message):
        LatentDataset(clips, CONFIG)


def test_a_missing_folder_and_a_missing_empty_prompt(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"dataset: .* is not a directory"):
        LatentDataset(tmp_path / "none", CONFIG)
    clips = folder(tmp_path)
    (clips / "empty-prompt.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"text_drop: is 0\.1"):
        DatasetSource(LatentDataset(clips, CONFIG), Draws(1, 0, 3.0, 0.1, 0))
    DatasetSource(LatentDataset(clips, CONFIG), Draws(1, 0, 3.0, 0, 0)).draw(0)


def test_nan_is_found_when_a_clip_is_read(tmp_path: Path) -> None:
    clips = folder(tmp_path)
    latents = torch.zeros(4, 1, 4, 4)
    latents[2, 0, 1, 1] = float("nan")
    save_file({"latents": latents, "text": torch.zeros(6, 8)}, clips / "0.safetensors")
    data = LatentDataset(clips, CONFIG)
    assert len(data) == 2
    with pytest.raises(TrainingError, match=r"0\.safetensors: latents holds NaN"):
        data[0]

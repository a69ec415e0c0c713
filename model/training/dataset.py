"""Read training clips encoded beforehand: a folder with a safetensors file for each.

A file holds ``latents`` [C, T, H, W] and ``text`` [L, text_dim], the encoded prompt with its padding, as the network
gets it in service. ``empty-prompt.safetensors`` holds only the ``text`` of the empty prompt, which replaces others to
train guidance. `zoetrope prepare` writes such a folder; a clip may be of any size and length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.training.errors import TrainingError
from zoetrope.model.training.flow import draw_levels

EMPTY_PROMPT = "empty-prompt"


@dataclass(frozen=True)
class FlowBatch:
    """The arguments of `model.training.flow.flow_loss`."""

    clean: list[torch.Tensor]
    conditions: list[Conditions]
    sigmas: torch.Tensor
    noise: list[torch.Tensor]

    @property
    def count(self) -> int:
        return len(self.clean)


class LatentDataset:
    """The files of a folder, by name. All headers are checked at the start; tensors are read on access."""

    def __init__(self, directory: Path, config: TransformerConfig) -> None:
        """Check the headers; ``config`` is that of the network to train.

        Raises:
            TrainingError: the folder has no files, or one of them does not fit the format or the network.
        """
        if not directory.is_dir():
            raise TrainingError(f"dataset: {directory} is not a directory")
        files = sorted(directory.glob("*.safetensors"))
        self.paths = [path for path in files if path.stem != EMPTY_PROMPT]
        if not self.paths:
            raise TrainingError(f"dataset: {directory} holds no clip as NAME.safetensors")
        for path in files:
            _check(path, config, with_latents=path.stem != EMPTY_PROMPT)
        empty = directory / f"{EMPTY_PROMPT}.safetensors"
        self.empty = load_file(empty)["text"].float() if empty in files else None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``latents`` and ``text``, float32.

        Raises:
            TrainingError: a value is NaN or infinite.
        """
        tensors = load_file(self.paths[index])
        latents, text = tensors["latents"].float(), tensors["text"].float()
        for name, tensor in (("latents", latents), ("text", text)):
            if not tensor.isfinite().all():
                raise TrainingError(f"{self.paths[index]}: {name} holds NaN or infinity")
        return latents, text


@dataclass(frozen=True)
class Draws:
    """What to draw for each clip of a batch.

    Attributes:
        batch: clips per step over all ranks. text_drop: share of the clips with the empty prompt.
        first_frame: share of the clips with a given first latent frame, if they have more than one.
        levels: the range of noise levels.
    """

    batch: int
    seed: int
    shift: float
    text_drop: float
    first_frame: float
    levels: tuple[float, float] = (0.0, 1.0)


class DatasetSource:
    """Batches of a dataset, each epoch in another order.

    Draws depend only on the seed and on the clip's place in the run, so there is no state to save, and any number of
    ranks together see the same clips with the same noise.
    """

    def __init__(self, dataset: LatentDataset, draws: Draws, rank: int = 0, ranks: int = 1) -> None:
        """Raise TrainingError if prompts are to be dropped and the dataset has no empty one."""
        if draws.text_drop and dataset.empty is None:
            raise TrainingError(
                f"text_drop: is {draws.text_drop:g}, and the dataset has no {EMPTY_PROMPT}.safetensors; use 0"
            )
        self._dataset, self._draws, self._rank, self._ranks = dataset, draws, rank, ranks

    def draw(self, step: int) -> FlowBatch:
        batch = self._draws.batch
        places = range(step * batch, (step + 1) * batch)[self._rank :: self._ranks]
        clips = [self._clip(place) for place in places]
        clean, conditions, sigmas, noise = zip(*clips, strict=True)
        return FlowBatch(list(clean), list(conditions), torch.cat(sigmas), list(noise))

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing: there is no state, see the class."""

    def _clip(self, place: int) -> tuple[torch.Tensor, Conditions, torch.Tensor, torch.Tensor]:
        draws = self._draws
        epoch, index = divmod(place, len(self._dataset))
        order = torch.randperm(len(self._dataset), generator=_generator(draws.seed, 0, epoch))
        generator = _generator(draws.seed, 1, place)
        clean, text = self._dataset[int(order[index])]
        sigma = draw_levels(1, draws.shift, generator, draws.levels)
        drop, give = torch.rand(2, generator=generator).tolist()
        noise = torch.randn(clean.shape, generator=generator)
        if drop < draws.text_drop and self._dataset.empty is not None:
            text = self._dataset.empty
        if give < draws.first_frame and clean.shape[1] > 1:
            known = torch.arange(clean.shape[1]) < 1
            return clean, Conditions(text, known=clean, known_frames=known), sigma, noise
        return clean, Conditions(text), sigma, noise


def _generator(seed: int, purpose: int, number: int) -> torch.Generator:
    """Return a generator for each draw; neighbouring numbers are unrelated (splitmix64's mixing of the counter)."""
    mask = 2**64 - 1
    x = (seed * 0x9E3779B97F4A7C15 + purpose * 0xD1B54A32D192ED03 + number + 1) * 0x9E3779B97F4A7C15 & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return torch.Generator().manual_seed((x ^ x >> 31) & (2**63 - 1))


def _check(path: Path, config: TransformerConfig, *, with_latents: bool) -> None:
    wanted = {"text": "[L, text_dim]"} | ({"latents": "[C, T, H, W]"} if with_latents else {})
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path}: cannot be read as safetensors: {error}") from None
    for name, axes in wanted.items():
        if name not in shapes:
            raise TrainingError(f"{path}: lacks {name} {axes}")
        if len(shapes[name]) != axes.count(",") + 1 or 0 in shapes[name]:
            raise TrainingError(f"{path}: {name} has shape {shapes[name]}, expected {axes}")
    if shapes["text"][1] != config.text_dim:
        raise TrainingError(f"{path}: text is {shapes['text'][1]} wide, this network takes {config.text_dim}")
    if with_latents:
        channels, *grid = shapes["latents"]
        if channels != config.out_channels:
            raise TrainingError(f"{path}: latents have {channels} channels, this network {config.out_channels}")
        if any(side % patch for side, patch in zip(grid, config.patch_size, strict=True)):
            raise TrainingError(f"{path}: latents of {grid} do not divide into patches of {list(config.patch_size)}")

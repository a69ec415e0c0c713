"""Fine-tune the transformer of a checkpoint directory, dense or with experts, on clips encoded beforehand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.model_card import transformer_config
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.catalog.presets import open_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.families import family_of
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.training.balance import twin
from zoetrope.model.training.dataset import DatasetSource, Draws, FlowBatch, LatentDataset
from zoetrope.model.training.errors import TrainingError
from zoetrope.model.training.export import check_exportable, export_checkpoint
from zoetrope.model.training.flow import flow_loss
from zoetrope.model.training.optimisers import Recipe, build_optimisers
from zoetrope.model.training.plain import STATE_NAME, PlainStepper
from zoetrope.model.training.trainer import Stepper, Trainer
from zoetrope.model.training.zero import STATE_INDEX, ZeroStepper, check_zero, join

CHECKPOINT_NAME = "checkpoint"


class FineTuneConfig(BaseModel):
    """The configuration of a run, from its JSON file.

    Attributes:
        checkpoint: a directory in diffusers' layout. dataset: see `model.training.dataset`. out: where saved states go,
            and the result, as a folder ``checkpoint``.
        batch: clips per step over all ranks.
        optimiser: muon takes the blocks' matrices at ``muon_lr`` and leaves the rest to AdamW at ``lr``.
        warmup, decay, ema, balance_rate, clip: see `model.training.optimisers.Recipe`.
        shift, text_drop, first_frame: see `model.training.dataset.Draws`.
        noise_expert: which of two noise experts to train, on its own range of noise levels.
        zero_stage: 0 is a single process without DeepSpeed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path
    dataset: Path
    out: Path
    steps: int = Field(ge=1)
    batch: int = Field(default=1, ge=1)
    optimiser: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(default=1e-5, gt=0)
    muon_lr: float = Field(default=1e-4, gt=0)
    warmup: int = Field(default=100, ge=0)
    decay: float = Field(default=0.3, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.999, ge=0, lt=1)
    balance_rate: float = Field(default=1e-3, ge=0)
    shift: float = Field(default=5.0, gt=0)
    text_drop: float = Field(default=0.1, ge=0, le=1)
    first_frame: float = Field(default=0.0, ge=0, le=1)
    noise_expert: Literal["high", "low"] | None = None
    zero_stage: Literal[0, 1, 2, 3] = 0
    seed: int = Field(default=0, ge=0)
    save_every: int = Field(default=500, ge=1)

    @classmethod
    def read(cls, path: Path) -> FineTuneConfig:
        """Read the file. Raises TrainingError that names the field at fault."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise TrainingError(f"{path}: cannot be read: {error.strerror}") from None
        except ValidationError as error:
            item = error.errors(include_url=False)[0]
            field = ".".join(map(str, item["loc"])) or "the file"
            given = "" if item["type"] in ("missing", "json_invalid") else f", not {item['input']!r}"
            raise TrainingError(f"{path}: {field}: {item['msg']}{given}") from None


class FineTuning(nn.Module):
    """The transformer and its loss."""

    def __init__(self, transformer: Network) -> None:
        super().__init__()
        module_of(transformer).requires_grad_(True)
        self.transformer = transformer

    def forward(self, batch: FlowBatch) -> torch.Tensor:
        return flow_loss(self.transformer, batch.clean, batch.conditions, batch.sigmas, batch.noise)


def build(config: FineTuneConfig, device: torch.device) -> Trainer[FlowBatch]:
    """Return a trainer before its first step, or at the saved state of an earlier run in ``out``.

    Faults in the configuration and in the headers of files are reported before any weight is read.

    Raises:
        TrainingError, ModelError: the run cannot start.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    check_state(config.out, config.zero_stage)
    check_zero(config.zero_stage, ranks, config.optimiser, config.ema, config.batch)
    card = open_model(str(config.checkpoint))
    check_exportable(config.checkpoint, config.out)
    component, levels = noise_range(card, config.noise_expert)
    network = check_network(card, component, config.first_frame)
    dataset = LatentDataset(config.dataset, network)
    rank = int(os.environ.get("RANK", "0"))
    draws = Draws(config.batch, config.seed, config.shift, config.text_drop, config.first_frame, levels)
    source = DatasetSource(dataset, draws, rank, ranks)

    net = FineTuning(load_transformer(card, device, component, dtype=torch.float32))
    ema = twin(net) if config.ema else None
    optimisers = build_optimisers(net, config.optimiser, config.lr, config.muon_lr, config.weight_decay)
    config.out.mkdir(parents=True, exist_ok=True)
    stepper: Stepper
    if config.zero_stage:
        join(device)
        stepper = ZeroStepper(net, optimisers[0], config.clip, config.zero_stage, config.batch)
    else:
        stepper = PlainStepper(net, optimisers, config.clip)

    def export() -> None:
        weights = stepper.weights() if ema is None else ema.state_dict()
        if stepper.rank == 0:
            whole = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
            export_checkpoint(
                config.checkpoint, component, whole, config.out / CHECKPOINT_NAME, record(trainer, config)
            )

    recipe = Recipe(config.steps, config.warmup, config.decay, config.ema, config.balance_rate)
    trainer = Trainer(net, source, stepper, recipe, config.out, export, ema)
    trainer.resume()
    return trainer


def check_state(out: Path, zero_stage: int) -> None:
    """Check that this run can resume an earlier one in ``out``.

    Raises:
        TrainingError: that one was saved without ZeRO and this one uses it, or the other way round.
    """
    other = out / (STATE_NAME if zero_stage else STATE_INDEX)
    if other.exists():
        raise TrainingError(
            f"zero_stage: is {zero_stage}, and {other} was saved {'with 0' if zero_stage else 'with another'}; "
            f"use that stage or another out"
        )


def noise_range(card: ModelCard, expert: Literal["high", "low"] | None) -> tuple[str, tuple[float, float]]:
    """Return the component to train and the noise levels that it works at.

    Raises:
        TrainingError: one of two must be chosen, or there is only one.
    """
    if card.boundary is None:
        if expert is not None:
            raise TrainingError(f"noise_expert: is {expert!r}, but {card.directory} has one transformer for all levels")
        return "transformer", (0.0, 1.0)
    if expert is None:
        raise TrainingError(
            f"noise_expert: {card.directory} has two noise experts, which train one at a time: choose high or low"
        )
    return ("transformer", (card.boundary, 1.0)) if expert == "high" else ("transformer_2", (0.0, card.boundary))


def record(trainer: Trainer[FlowBatch], config: FineTuneConfig) -> dict[str, Any]:
    """Return what a reader needs to repeat this run."""
    return {
        "config": config.model_dump(mode="json"),
        "step": trainer.step,
        "clips": trainer.clips,
        "seconds": round(trainer.seconds),
        "loss": round(trainer.loss, 4),
        "ranks": trainer.stepper.ranks,
        "weights": "moving average" if trainer.ema is not None else "last step",
        "torch": torch.__version__,
    }


def check_network(card: ModelCard, component: str, first_frame: float) -> TransformerConfig:
    """Return the network's configuration, if it takes only latents and text.

    Raises:
        TrainingError: it takes more, or does not condition on known first frames.
    """
    part = read_transformers(source_of(card))[("transformer", "transformer_2").index(component)]
    config = transformer_config(part)
    where = part.directory / "config.json"
    if config.vace_layers:
        raise TrainingError(f"{where}: vace_layers: VACE trains on hints, which a dataset of latents and text lacks")
    if config.in_channels != config.out_channels:
        raise TrainingError(
            f"{where}: in_channels: is {config.in_channels}, {config.in_channels - config.out_channels} of them beside "
            f"the latents, which a dataset of latents and text lacks"
        )
    if config.image_dim is not None:
        raise TrainingError(f"{where}: image_dim: CLIP tokens are needed, which a dataset of latents and text lacks")
    if first_frame and not family_of(card.family).starts_with_frame:
        raise TrainingError(f"first_frame: is {first_frame:g}, but {card.directory} takes pictures as sources; use 0")
    return config

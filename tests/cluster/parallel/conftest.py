"""Gangs of real processes, and small checkpoints of every family with heads for four ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.cluster.parallel.gangs import Gangs
from tests.fixtures import random_checkpoints
from tests.fixtures.transformer_shape import TRANSFORMER
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.tasks import ModelCard

Checkpoint = Callable[[str], ModelCard]
HEADS = {"num_attention_heads": 4, "attention_head_dim": 12}
ROUTERS = {
    "top-k": MoEConfig(layers=(1, 2), num_experts=8, top_k=2, expert_dim=16, shared_dim=8),
    "grouped": MoEConfig(
        layers=(0, 2), num_experts=8, top_k=4, expert_dim=16, router="grouped_top1", groups=4, expert_bias=True
    ),
}
SHORT = ROUTERS["grouped"].model_copy(update={"layers": (1,)})  # two layers are compiled sooner than three


@pytest.fixture(scope="session")
def gangs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gangs]:
    made = Gangs(tmp_path_factory.mktemp("gangs"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """By name: nano, dense, two routers, short, two noise experts, CLIP tokens with or without positions, VACE."""

    @cache
    def make(name: str) -> ModelCard:
        if name == "nano":
            return find_model("nano")
        root = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            for key, value in HEADS.items():
                patch.setitem(TRANSFORMER, key, value)
            match name:
                case "two noise experts":
                    random_checkpoints.write_a14b(root)
                case "clip":
                    random_checkpoints.write_i2v(root, clip=True)
                case "two pictures":
                    random_checkpoints.write_i2v(root, clip=True, last=True)
                case "vace":
                    random_checkpoints.write_vace(root)
                case _:
                    random_checkpoints.write_t2v(root)
            if moe := {**ROUTERS, "short": SHORT}.get(name):
                _write_experts(root / "transformer", {**TRANSFORMER, "num_layers": moe.layers[-1] + 1, "moe": moe})
        return replace(find_model(str(root)), name=name)

    return make


def _write_experts(directory: Path, shape: dict[str, Any]) -> None:
    config = TransformerConfig.model_validate(shape)
    torch.manual_seed(3)
    network = WanTransformer(config)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 or name.endswith("b1"):  # those that start as ones and zeros
            torch.nn.init.normal_(parameter, std=0.3)
    for name, buffer in network.named_buffers():
        if name.endswith("correction"):
            torch.nn.init.normal_(buffer, std=0.1)
    written = {"_class_name": "ZoetropeTransformer3DModel", **config.model_dump(mode="json")}
    (directory / "config.json").write_text(json.dumps(written))
    index = directory.parent / "model_index.json"
    named = {**json.loads(index.read_text()), "transformer": ["zoetrope", written["_class_name"]]}
    index.write_text(json.dumps(named))
    save_file(network.state_dict(), directory / "diffusion_pytorch_model.safetensors")

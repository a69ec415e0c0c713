"""Steps of models on a fake CUDA device, captured and replayed.

python -m tests.model.denoising.graph_cases FILE        without Triton's interpreter; writes JSON
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tests.kernels.check.model_launches import COUNTED, made, shortened
from zoetrope.kernels import CuSeqlens
from zoetrope.kernels.check.fake_cuda import fake_cuda
from zoetrope.kernels.check.fake_record import DeviceRecord
from zoetrope.kernels.select.backends import use
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.denoising import graphs
from zoetrope.model.denoising.conditions import blank_conditions
from zoetrope.model.denoising.graphs import GraphLimits, GraphRunner
from zoetrope.model.families import all_presets
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence

CHOICES = {"dense": ("",), "experts": ("", "triton,attention=gluon", "triton,attention=int8_fp8")}
SHAPE = (4, 12, 20)
STEPS = 5


def sequences(network: Network, text: torch.Tensor, number: int) -> list[Sequence]:
    config = network.config
    latents = torch.zeros(config.out_channels, *SHAPE, device="cuda")
    return [blank_conditions(config, latents.shape, text).sequence(latents, 100.0 * number, text)] * 2  # type: ignore[arg-type]


def forget_tables() -> None:
    """As many other batches would, since each table is kept for the latest 64 only."""
    from zoetrope.kernels.gpu.quantise_qkv import key_tables
    from zoetrope.kernels.gpu.schedule import query_tiles

    for number in range(1000, 1070):
        cu, device = CuSeqlens.of([number]), torch.device("cuda", 0)
        cu.tensor(device)
        query_tiles(cu, cu, 128, device)
        key_tables(cu, 128, 128, device)


@contextmanager
def holding_nothing() -> Iterator[list[object]]:
    yield []


def run(network: Network, device: DeviceRecord, forget: bool = True) -> dict[str, Any]:
    """Take some steps of one shape, the caches of tables emptied before the last."""
    runner = GraphRunner(GraphLimits(tokens=10_000, memory=1 << 30))
    texts = [torch.zeros(64, network.config.text_dim, device="cuda") for _ in range(2)]
    launches: list[int] = []
    waits: list[str] = []
    for number in range(STEPS):
        if forget and number == STEPS - 1:
            forget_tables()
        given = sequences(network, texts[number == STEPS - 1], number)
        device.clear()
        runner(network, given)
        launches.append(len(device.launches) + len(device.operations))
        waits += [event.what for event in device.waits] if number > 2 else []
    return {"replays": runner.replays, "graphs": runner.graphs, "launches": launches, "waits": waits}


def main(out: Path) -> None:
    logging.basicConfig(level=logging.WARNING)
    found: dict[str, Any] = {}
    with fake_cuda(compiling=False) as device, torch.inference_mode():
        for kind, name in COUNTED.items():
            config = all_presets()[name].config
            network = made(shortened(config))
            for choice in CHOICES[kind]:
                with use(choice):
                    found[f"{kind}, {choice or 'by default'}"] = run(network, device)
                    if choice:
                        with mock.patch.object(graphs, "held_tables", holding_nothing):
                            found[f"{kind}, {choice}, tables not held"] = run(network, device)
        deep = shortened(config).model_copy(update={"num_layers": 6})  # of which one is in 8 bits
        assert deep.moe is not None
        deep = deep.model_copy(update={"moe": deep.moe.model_copy(update={"layers": (2,)})})
        weights = RandomWeights(seed=0, std=0.02)
        network = random_network(deep, torch.device("cuda"), torch.bfloat16, weights, quantize="fp8")
        found[f"{kind}, fp8"] = run(network, device)
    out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

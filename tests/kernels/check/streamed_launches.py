"""What a network whose blocks are streamed asks of a CUDA device, beside what a resident one asks.

python -m tests.kernels.check.streamed_launches FILE
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from tests.kernels.check.model_launches import SMALL, packed
from zoetrope.kernels.check.fake_cuda import fake_cuda
from zoetrope.kernels.check.fake_record import DeviceRecord
from zoetrope.kernels.select.backends import use
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.families import all_presets
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.protocol import Network
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.streaming.loading import StreamedLoading, WeightRoom

LAYERS = 6
MOE = MoEConfig(layers=(2, 3), num_experts=8, top_k=2, expert_dim=256)
NARROW = {"num_attention_heads": 4, "num_layers": LAYERS, "ffn_dim": 1024, "text_dim": 128}
CASES: dict[str, tuple[MoEConfig | None, Quantize]] = {
    "dense": (None, "none"),
    "experts": (MOE, "none"),
    "dense in fp8": (None, "fp8"),
}


def config_of(moe: MoEConfig | None) -> TransformerConfig:
    return all_presets()["wan2.1-t2v-1.3b"].config.model_copy(update={**NARROW, "moe": moe})


def asked(network: Network, device: DeviceRecord) -> dict[str, Any]:
    """What two passes launch and wait for, after a first one."""
    with torch.inference_mode(), use("triton"):
        batch = packed(network, SMALL)
        network(batch)
        device.clear()
        network(batch)
        network(batch)
    return {
        "launches": dict(Counter(launch.name for launch in device.launches)),
        "events": dict(Counter(event.kind for event in device.events)),
        "waits": [f"{event.what} at {event.where}" for event in device.waits],
    }


def main(out: Path) -> None:
    found: dict[str, Any] = {}
    with fake_cuda(compiling=False) as device:
        cuda = torch.device("cuda", 0)
        for name, (moe, quantize) in CASES.items():
            how, form = RandomWeights(seed=0, std=0.02), quantize
            resident = random_network(config_of(moe), cuda, torch.bfloat16, how, quantize=form)
            loading = StreamedLoading(WeightRoom(0), cuda)
            made = random_network(config_of(moe), cuda, torch.bfloat16, how, quantize=form, streaming=loading)
            store = loading.finish()
            assert store is not None and store.streamed == LAYERS
            found[name] = {"resident": asked(resident, device), "streamed": asked(made, device)}
    out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

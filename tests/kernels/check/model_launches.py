"""What the models launch: a forward pass of each on a fake device, with every choice of kernels, and block by block.

    python -m tests.kernels.check.model_launches FILE [NAME...]     compile what they launch, and check it

Without Triton's interpreter; writes JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zoetrope.kernels.check.compile_table import broken_rules
from zoetrope.kernels.check.fake_cuda import fake_cuda
from zoetrope.kernels.check.fake_record import CompiledKernel, DeviceRecord
from zoetrope.kernels.check.kernel_figures import kernel_figures
from zoetrope.kernels.select.backends import use
from zoetrope.model.catalog.checkpoint_layout import RandomWeights
from zoetrope.model.checkpoints.random_weights import random_network
from zoetrope.model.families import all_presets
from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.network.sequences import PackedBatch, Stream
from zoetrope.model.network.sequences import Sequence as Tokens

LARGE = (21, 60, 104)  # latent frames, height and width of 81 frames at 480p
SMALL = (1, 8, 8)
CHOICES = ("triton,attention=gluon", "triton", "triton,attention=int8", "triton,attention=int8_fp8")
COUNTED_CHOICES = ("triton,attention=gluon", "triton,attention=int8_fp8")
COUNTED = {"dense": "wan2.1-t2v-14b", "experts": "wan2.7-27b"}


def lingbot() -> TransformerConfig:
    """A width and experts that no preset has yet: 2048, 128 experts of 768."""
    moe = MoEConfig(layers=(1,), num_experts=128, top_k=8, expert_dim=768, shared_dim=768)
    base = all_presets()["wan2.1-t2v-1.3b"].config
    return base.model_copy(update={"num_attention_heads": 16, "ffn_dim": 6144, "moe": moe})


def shortened(config: TransformerConfig) -> TransformerConfig:
    moe = None if config.moe is None else config.moe.model_copy(update={"layers": (1,)})
    vace = (0, 1) if config.vace_layers else ()
    return config.model_copy(update={"num_layers": 2, "moe": moe, "vace_layers": vace})


def _few_experts(config: TransformerConfig) -> TransformerConfig:
    """As many launches as with all experts, and sooner made."""
    if config.moe is None:
        return config
    return config.model_copy(update={"moe": config.moe.model_copy(update={"num_experts": 2 * config.moe.top_k})})


def networks() -> dict[str, TransformerConfig]:
    """One network of each shape of layers that a preset has: two blocks, the second with experts if any has them."""
    found: dict[str, TransformerConfig] = {}
    shapes = set()
    for name, config in [*((name, preset.config) for name, preset in all_presets().items()), ("lingbot", lingbot())]:
        short = shortened(config)
        shape = repr(
            (short.dim, short.attention_head_dim, short.ffn_dim, short.moe, short.image_dim, short.vace_layers)
        )
        if shape not in shapes:
            shapes.add(shape)
            found[name] = short
    return found


def made(config: TransformerConfig) -> Network:
    return random_network(config, torch.device("cuda"), torch.bfloat16, RandomWeights(seed=0, std=0.02))


def packed(network: Network, size: tuple[int, int, int]) -> PackedBatch:
    config = network.config

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, device="cuda")

    tokens = Tokens(
        (Stream(zeros(config.in_channels, *size), zeros(size[0])),),
        zeros(512, config.text_dim),
        image=None if config.image_dim is None else zeros(config.pos_embed_seq_len or 257, config.image_dim),
        hints=zeros(config.vace_in_channels, *size) if config.vace_layers else None,
        hint_scales=(1.0,) * len(config.vace_layers),
    )
    return network.pack([tokens])


def compile_all(names: Sequence[str]) -> dict[str, Any]:
    """Run each network with few and many tokens and every choice, and check each kernel that it launched."""
    kernels: dict[CompiledKernel, str] = {}
    errors: dict[str, str] = {}
    for name, config in networks().items():
        if names and name not in names:
            continue
        with fake_cuda() as device, torch.inference_mode():
            network = made(config)
            for size in (SMALL, LARGE):
                batch = packed(network, size)
                for choice in CHOICES:
                    label = f"{name}, {batch.cu_tokens.total} tokens, {choice}"
                    try:
                        with use(choice):
                            network(batch)
                    except Exception as error:
                        if not refuses(choice, config, error):
                            errors[label] = f"{type(error).__name__}: {error}"[:1000]
                    for launch in device.launches:
                        kernels.setdefault(launch.kernel, f"{label}: {launch.name}")
                    device.clear()
    broken = {label: broken_rules(kernel_figures(kernel)) for kernel, label in kernels.items()}
    return {
        "kernels": len(kernels),
        "errors": errors,
        "broken": {label: found for label, found in broken.items() if found},
    }


def refuses(choice: str, config: TransformerConfig, error: Exception) -> bool:
    """Tell whether an error is that of an attention that does not take heads of this width, and says so."""
    attention, width = choice.partition("attention=")[2], config.attention_head_dim
    says = f"attention by {attention}: it takes heads of 64, 128, not {width}"
    return width not in (64, 128) and isinstance(error, ValueError) and str(error) == says


class BlockWatch:
    """Counts what the last block of a network launches and waits for."""

    def __init__(self, network: Network, device: DeviceRecord) -> None:
        self.device = device
        self.found: dict[str, Any] = {}
        block = list(module_of(network).get_submodule("blocks").children())[-1]
        block.register_forward_pre_hook(lambda *_: device.clear())
        block.register_forward_hook(lambda *_: self.take())

    def take(self) -> None:
        self.found = {
            "launches": dict(Counter(launch.name for launch in self.device.launches)),
            "unguarded": sorted({launch.name for launch in self.device.launches if not launch.guarded}),
            "operations": dict(Counter(self.device.operations)),
            "events": [asdict(event) for event in self.device.events],
        }


def count_all() -> dict[str, Any]:
    """Count what a block launches, with what is kept after other blocks."""
    counts: dict[str, Any] = {}
    configs = all_presets()
    with fake_cuda(compiling=False) as device, torch.inference_mode():
        for kind, name in COUNTED.items():
            network = made(_few_experts(shortened(configs[name].config)))
            batch = packed(network, SMALL)
            watch = BlockWatch(network, device)
            for choice in (*COUNTED_CHOICES, ""):
                label = f"{kind}, {choice or 'by default'}"
                try:
                    with use(choice):
                        network(batch)
                    counts[label] = watch.found
                except Exception as error:
                    counts[label] = {"error": f"{type(error).__name__}: {error}"[:1000]}
    return counts


def main(out: Path, *names: str) -> None:
    out.write_text(json.dumps(compile_all(names), indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

"""A family that is not Wan's, as small as one can be: text rows behind the video's in one stream, gated feed-forward.

Its network has another configuration file, block, position rule, text path and batch than Wan's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import nn

from tests.fixtures.random_checkpoints import write_t2v
from tests.fixtures.transformer_shape import TEXT_DIM
from zoetrope.kernels import CuSeqlens
from zoetrope.model.families.config import ForwardCost, TransformerConfig
from zoetrope.model.families.family import Contents, Family, Preset, Sampling
from zoetrope.model.families.index import Components
from zoetrope.model.families.network_shapes import Shapes
from zoetrope.model.families.wan import WAN21_VAE
from zoetrope.model.network.arrivals import RESIDENT, Arrivals
from zoetrope.model.network.exchange import Exchange
from zoetrope.model.network.sequences import PackedBatch, Sequence, pack

RAW: dict[str, Any] = {"hidden_size": 32, "heads": 2, "depth": 2, "channels": 16, "text_dim": TEXT_DIM, "mlp": 48}


class JointConfig(TransformerConfig):
    """Read from a file with names of its own."""

    network: ClassVar[str] = f"{__name__}:JointTransformer"

    @classmethod
    def named(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if "hidden_size" not in values:
            return values
        return {
            "num_attention_heads": values["heads"],
            "attention_head_dim": values["hidden_size"] // values["heads"],
            "in_channels": values["channels"],
            "out_channels": values["channels"],
            "text_dim": values["text_dim"],
            "ffn_dim": values["mlp"],
            "num_layers": values["depth"],
        }

    @classmethod
    def file_keys(cls) -> frozenset[str]:
        return frozenset(RAW)

    def forward_cost(self, tokens: int, text_tokens: int = 0) -> ForwardCost:
        rows, dim = tokens + text_tokens, self.dim
        weights = self.num_layers * (4 * dim * dim + 3 * dim * self.ffn_dim)
        return ForwardCost(2.0 * rows * weights, 4.0 * rows * rows * dim * self.num_layers, 0.0)

    def remembered_values(self, text_tokens: int = 0) -> int:
        return 0  # its text takes part in every layer as the video does


@dataclass(frozen=True)
class JointBatch(PackedBatch):
    """Rows are those of the video and of the text of each sequence; ``order`` finds each of them in the rows of
    ``tokens`` followed by those of ``text``."""

    order: torch.Tensor = field(kw_only=True)

    def part(self, start: int, stop: int, exchange: Exchange) -> JointBatch:
        bounds = [min(max(offset, start), stop) for offset in self.cu_tokens.offsets]
        return replace(
            self,
            order=self.order[start:stop],
            cos=self.cos[start:stop],
            sin=self.sin[start:stop],
            noise_row=self.noise_row[start:stop],
            cu_tokens=CuSeqlens.of(b - a for a, b in pairwise(bounds) if b > a),
            targets=(),
            exchange=exchange,
        )


class JointBlock(nn.Module):
    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.ffn_dim
        self.heads = config.num_attention_heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)
        self.gate_up, self.down = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim)

    def forward(self, x: torch.Tensor, scale: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x) * scale).unflatten(-1, (3, self.heads, -1)).unbind(1)
        share = batch.exchange.share
        q, k = (share(rotate(part, batch.cos, batch.sin)) for part in (q, k))
        x = x + self.out(batch.exchange.attend(q, k, share(v), batch.cu_tokens).flatten(1))
        gate, up = self.gate_up(self.norm2(x) * scale).chunk(2, dim=-1)
        out: torch.Tensor = x + self.down(nn.functional.silu(gate) * up)
        return out


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


class JointTransformer(nn.Module):
    """A `model.network.protocol.Network`."""

    float32_modules = ("norm1", "norm2")
    expert_stacks = re.compile(r"(?!)")  # there are none

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        width = math.prod(config.patch_size) * config.in_channels
        self.video_in, self.text_in = nn.Linear(width, config.dim), nn.Linear(config.text_dim, config.dim)
        self.time_in = nn.Linear(1, config.dim)
        self.blocks = nn.ModuleList(JointBlock(config) for _ in range(config.num_layers))
        self.head = nn.Linear(config.dim, width)
        self.arrivals: Arrivals = RESIDENT

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    def layers(self) -> list[nn.Module]:
        return list(self.blocks)

    def check(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            if sequence.image is not None or sequence.hints is not None or len(sequence.streams) > 1:
                raise ValueError("this network takes a clip and its text alone")

    def pack(self, sequences: list[Sequence]) -> JointBatch:
        """Lay the video rows of each sequence, then its text rows, whose positions count on along time."""
        self.check(sequences)
        config = self.config
        video = pack(sequences, config.patch_size, config.attention_head_dim)
        lengths: list[int] = []
        order, sources, turns, targets = [], [], [], []
        for i, (_, grid) in enumerate(video.targets):
            rows = torch.arange(video.cu_tokens.offsets[i], video.cu_tokens.offsets[i + 1])
            words = torch.arange(video.cu_text.offsets[i], video.cu_text.offsets[i + 1]) + video.cu_tokens.total
            targets.append((sum(lengths), grid))
            order += [rows, words]
            sources += [rows, rows[:1].expand(len(words))]  # the text has the noise level of its clip
            turns += [torch.zeros(len(rows)), 0.1 * torch.arange(1, len(words) + 1)]
            lengths.append(len(rows) + len(words))
        index, source = torch.cat(order), torch.cat(sources)
        angle = torch.atan2(video.sin[source], video.cos[source]) + torch.cat(turns)[:, None]
        return JointBatch(
            tokens=video.tokens,
            texts=video.texts,
            cu_text=video.cu_text,
            timesteps=video.timesteps,
            noise_row=video.noise_row[source],
            cos=angle.cos(),
            sin=angle.sin(),
            cu_tokens=CuSeqlens.of(lengths),
            targets=tuple(targets),
            order=index,
        )

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        assert isinstance(batch, JointBatch)
        x = torch.cat([self.video_in(batch.tokens), self.text_in(batch.text)])[batch.order]
        scale = 1 + torch.tanh(self.time_in(batch.timesteps[:, None] / 1000))[batch.noise_row]
        for block in self.blocks:
            with self.arrivals.of(block):
                x = block(x, scale, batch)
        out: torch.Tensor = self.head(x)
        return out


def shapes(config: TransformerConfig) -> Shapes:
    dim, hidden, width = config.dim, config.ffn_dim, math.prod(config.patch_size) * config.in_channels
    linears = {"video_in": (dim, width), "text_in": (dim, config.text_dim), "time_in": (dim, 1), "head": (width, dim)}
    bare: dict[str, tuple[int, ...]] = {}
    for layer in range(config.num_layers):
        linears[f"blocks.{layer}.out"] = (dim, dim)
        bare |= {f"blocks.{layer}.norm{i}": (dim,) for i in (1, 2)}
        bare |= {f"blocks.{layer}.qkv": (3 * dim, dim), f"blocks.{layer}.gate_up": (2 * hidden, dim)}
        bare[f"blocks.{layer}.down"] = (dim, hidden)
    found: Shapes = {f"{name}.weight": shape for name, shape in {**linears, **bare}.items()}
    return found | {f"{name}.bias": shape[:1] for name, shape in linears.items()}


def is_joint(contents: Contents) -> bool:
    return True  # the class of its network says enough


JOINT = Family(
    name="joint",
    presets=(
        Preset(
            "joint-1m",
            "none/joint",
            JointConfig.model_validate(RAW),
            WAN21_VAE,
            Sampling(8, 9, 3, shift=3.0, guidance=2.0),
        ),
    ),
    matches=is_joint,
    networks=("JointTransformer3DModel",),
    config=JointConfig,
    shapes=shapes,
    original_name=str,
    pipelines=("JointPipeline",),
    components=Components(
        {
            "transformer": ("JointTransformer3DModel",),
            "vae": ("AutoencoderKLWan",),
            "text_encoder": ("UMT5EncoderModel",),
            "tokenizer": (),
            "scheduler": (),
        },
        {},
    ),
    conditioner="streams",
    load_conditioner="zoetrope.model.conditioning.streams:load",
    tasks=lambda config: ("text_to_video",),
    overlap_frames=1,
)


def write_joint(root: Path, seed: int = 0) -> Path:
    """A checkpoint folder of the family, random but for its names."""
    write_t2v(root)
    torch.manual_seed(seed)
    network = JointTransformer(JointConfig.model_validate(RAW))
    for path in (root / "transformer").iterdir():
        path.unlink()
    save_file(network.state_dict(), root / "transformer" / "diffusion_pytorch_model.safetensors")
    kind = {"_class_name": "JointTransformer3DModel"}
    (root / "transformer" / "config.json").write_text(json.dumps(kind | RAW))
    index = json.loads((root / "model_index.json").read_text())
    index |= {"_class_name": "JointPipeline", "transformer": ["tests", "JointTransformer3DModel"]}
    (root / "model_index.json").write_text(json.dumps(index))
    return root

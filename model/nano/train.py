"""Trains nano: ``python -m model.nano.train --out runs/nano``; run again to resume, with more ``--steps`` to go on.

Flow matching (Lipman et al., 2210.02747): the network predicts ``noise - clean`` at ``(1 - s) * clean + s * noise``.
The learning rate warms up, stays, and falls over the last part of the steps, so that a longer run can start from the
saved state of a shorter one. Everything that decides the result is written into ``training.json`` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from model.autoencoder import LinearAutoencoder, LinearConfig
from model.nano import prompts
from model.nano.layout import SPATIAL, export, nano_transformer_config, text_encoder_config
from model.nano.world import render, sample_scenes
from model.sequences import Sequence, Stream, unpack_targets
from model.text import TextEncoder
from model.transformer import WanTransformer

# (height, width) and share of the batches
SIZES = (((32, 56), 0.6), ((56, 32), 0.1), ((40, 40), 0.1), ((32, 40), 0.1), ((40, 32), 0.1))
FRAMES = ((1, 0.05), (9, 0.45), (17, 0.45), (33, 0.05))  # frames of a clip, share of the batches


@dataclass
class TrainConfig:
    """The whole recipe. The committed weights are those after 2,000 steps; they need more."""

    steps: int = 8000
    batch_tokens: int = 4480  # 32 clips of 17 frames
    lr: float = 1e-3
    warmup: int = 200
    decay: float = 0.3  # share of the steps over which the rate falls to 2 % of its height
    weight_decay: float = 0.01
    ema: float = 0.996
    text_drop: float = 0.1
    shift: float = 3.0
    seed: int = 20261121
    balance_rate: float = 1e-3


class Nano(nn.Module):
    """The two networks that train together."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = WanTransformer(nano_transformer_config())
        self.text_encoder = UMT5EncoderModel(UMT5Config(**text_encoder_config()))
        pass_through(self.transformer)
        look_nearby(self.transformer)


@torch.no_grad()
def pass_through(transformer: WanTransformer) -> None:
    """Start as the map that gives back its input: most of the velocity of a noisy token is the token itself.

    The embedding is an isometry and the output its transpose. Passing some hundred dimensions on through a network that
    is hardly wider is what takes a small one longest to learn otherwise.
    """
    config = transformer.config
    inputs = config.in_channels * math.prod(config.patch_size)
    if inputs > config.dim or config.in_channels != config.out_channels:
        raise ValueError(f"{inputs} numbers of a patch do not fit into a width of {config.dim}")
    isometry = torch.linalg.qr(torch.randn(config.dim, inputs, generator=torch.Generator().manual_seed(1)))[0]
    transformer.patch_embedding.weight.copy_(isometry.view_as(transformer.patch_embedding.weight))
    if transformer.patch_embedding.bias is not None:
        transformer.patch_embedding.bias.zero_()
    # The last norm brings the variance of the whole width to one. Patches come out with the channels last.
    back = isometry.T * (inputs / config.dim) ** 0.5
    back = back.unflatten(0, (config.in_channels, -1)).transpose(0, 1).flatten(0, 1)
    transformer.proj_out.weight.copy_(back)
    transformer.proj_out.bias.zero_()


LOCAL_STRENGTH = 2.5


@torch.no_grad()
def look_nearby(transformer: WanTransformer) -> None:
    """Start half of the heads of every layer with attention to a neighbouring token.

    A constant part of q and k, turned by RoPE, makes the score depend on the distance alone; which neighbour (-1, 0 or
    1 along each axis) is drawn for each head. Learning to look around takes a small network long otherwise. The idea
    of starting attention like a convolution is that of mimetic initialisation (Trockman and Kolter, 2305.09828).
    """
    config = transformer.config
    side = 2 * (config.attention_head_dim // 6)
    generator = torch.Generator().manual_seed(0)
    for block in transformer.layers():
        q = torch.zeros(config.num_attention_heads, config.attention_head_dim // 2, 2)
        k = torch.zeros_like(q)
        for head in range(config.num_attention_heads // 2):
            first = 0
            for dim in (config.attention_head_dim - 2 * side, side, side):
                offset = int(torch.randint(-1, 2, (1,), generator=generator))
                freqs = config.rope_theta ** -(torch.arange(0, dim, 2) / dim)
                strength = LOCAL_STRENGTH * (freqs > 0.1)
                rows = slice(first, first + dim // 2)
                q[head, rows, 0] = strength
                k[head, rows, 0] = strength * (offset * freqs).cos()
                k[head, rows, 1] = -strength * (offset * freqs).sin()
                first += dim // 2
        attention = block.attn1
        attention.to_q.bias.copy_(q.flatten())
        attention.to_k.bias.copy_(k.flatten())
        scale = (q.square().mean() + 1 / 3).sqrt()  # a third: the variance of a fresh nn.Linear's output
        attention.norm_q.weight.fill_(scale)
        attention.norm_k.weight.fill_(scale)


class Trainer:
    """State of a run: networks, their moving average, the optimiser, the random generators and the counters."""

    def __init__(self, config: TrainConfig, out: Path, device: torch.device) -> None:
        self.config, self.out, self.device = config, out, device
        torch.manual_seed(config.seed)
        self.net = Nano().to(device)
        self.ema = Nano().to(device).requires_grad_(False)
        self.ema.load_state_dict(self.net.state_dict())
        decayed = [p for p in self.net.parameters() if p.ndim >= 2]
        plain = [p for p in self.net.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.lr,
            betas=(0.9, 0.95),
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rng = random.Random(config.seed)
        self.tokenizer = prompts.build_tokenizer()
        self.step, self.clips, self.seconds, self.loss = 0, 0, 0.0, float("nan")
        if (out / "vae").exists():
            self.autoencoder = LinearAutoencoder.load(out / "vae")
        else:
            self.autoencoder = fit_autoencoder(config.seed)
            self.autoencoder.save(out / "vae")

    def rate(self) -> float:
        c = self.config
        left = (c.steps - self.step) / max(1.0, c.decay * c.steps)
        return c.lr * min(1.0, (self.step + 1) / c.warmup, max(0.02, left))

    def train_step(self) -> float:
        """One optimiser step on one batch of freshly drawn clips; returns the loss."""
        c = self.config
        height, width = self.rng.choices([s for s, _ in SIZES], [w for _, w in SIZES])[0]
        frames = self.rng.choices([f for f, _ in FRAMES], [w for _, w in FRAMES])[0]
        count = max(1, c.batch_tokens // self._tokens(height, width, frames))
        scenes = sample_scenes(count, height, width, frames, self.generator)
        clean = self.autoencoder.encode_batch(render(scenes, height, width, frames))
        texts = ["" if self.rng.random() < c.text_drop else t for t in prompts.describe(scenes, self.rng)]
        u = torch.rand(count, generator=self.generator)
        sigma = c.shift * u / (1 + (c.shift - 1) * u)
        noise = torch.randn(clean.shape, generator=self.generator)
        s = sigma[:, None, None, None, None]
        noisy = ((1 - s) * clean + s * noise).to(self.device)
        target = (noise - clean).to(self.device)

        self.net.train()
        encoder = TextEncoder(self.tokenizer, self.net.text_encoder, prompts.MAX_TEXT_TOKENS)
        embeddings = encoder.encode(texts)
        times = (1000 * sigma).to(self.device)[:, None].expand(-1, clean.shape[2])
        transformer = self.net.transformer
        batch = transformer.pack([Sequence((Stream(noisy[i], times[i]),), embeddings[i]) for i in range(count)])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            output = transformer(batch)
        predicted = torch.stack(unpack_targets(output.float(), batch, transformer.config.patch_size))
        loss = nn.functional.mse_loss(predicted, target)

        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.step()
        for layer in self.net.transformer.moe_layers():
            layer.rebalance(c.balance_rate)
        self._average()
        self.step += 1
        self.clips += count
        return float(loss.detach())

    def _tokens(self, height: int, width: int, frames: int) -> int:
        """Of one clip."""
        _, ph, pw = self.net.transformer.config.patch_size
        side = self.autoencoder.spatial
        return (1 + (frames - 1) // self.autoencoder.temporal) * (height // side // ph) * (width // side // pw)

    @torch.no_grad()
    def _average(self) -> None:
        weight = 1 - min(self.config.ema, (self.step + 1) / (self.step + 10))
        for mean, new in zip(self.ema.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(new, weight)
        for kept, counted in zip(self.ema.buffers(), self.net.buffers(), strict=True):
            kept.copy_(counted)

    def save(self) -> None:
        """The resumable state and an export in the checkpoint layout; both replaced atomically."""
        state = {
            "net": self.net.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "rng": self.rng.getstate(),
            "counters": (self.step, self.clips, self.seconds, self.loss),
        }
        partial = self.out / "state.pt.partial"
        torch.save(state, partial)
        partial.replace(self.out / "state.pt")
        export(self.out, self.ema.transformer, self.ema.text_encoder, self.record())

    def resume(self) -> bool:
        path = self.out / "state.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location="cpu", weights_only=False)
        self.net.load_state_dict(state["net"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.rng.setstate(state["rng"])
        self.step, self.clips, self.seconds, self.loss = state["counters"]
        return True

    def record(self) -> dict[str, Any]:
        """What a reader needs to repeat this run."""
        return {
            "command": "python -m model.nano.train " + " ".join(sys.argv[1:]),
            "config": asdict(self.config),
            "step": self.step,
            "clips": self.clips,
            "seconds": round(self.seconds),
            "loss": round(self.loss, 4),
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "parameters": sum(p.numel() for p in self.net.parameters()),
            "autoencoder": "linear (principal components), a stand-in for an AutoencoderKLWan trained on a GPU",
        }


def fit_autoencoder(seed: int) -> LinearAutoencoder:
    """A linear autoencoder of 200 clips of every size; a quarter of a minute on two cores."""
    generator = torch.Generator().manual_seed(seed + 1)
    clips = [render(sample_scenes(200, h, w, 17, generator), h, w, 17) for (h, w), _ in SIZES]
    config = LinearConfig(z_dim=nano_transformer_config().in_channels, scale_factor_spatial=SPATIAL)
    return LinearAutoencoder.fit(clips, config)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/nano"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=250, help="steps between saves")
    for name, value in asdict(TrainConfig()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    args = vars(parser.parse_args())
    out, device, every = args.pop("out"), torch.device(args.pop("device")), args.pop("save_every")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("medium")  # products in bfloat16, sums in float32, where the CPU or GPU can
    trainer = Trainer(TrainConfig(**args), out, device)
    if trainer.resume():
        print(f"resumed at step {trainer.step}", flush=True)
    while trainer.step < trainer.config.steps:
        started = time.monotonic()
        loss = trainer.train_step()
        trainer.seconds += time.monotonic() - started
        trainer.loss = loss if trainer.step == 1 else 0.98 * trainer.loss + 0.02 * loss
        if trainer.step % 25 == 0:
            left = trainer.seconds / trainer.step * (trainer.config.steps - trainer.step)
            print(
                json.dumps(
                    {
                        "step": trainer.step,
                        "of": trainer.config.steps,
                        "clips": trainer.clips,
                        "loss": round(trainer.loss, 4),
                        "lr": round(trainer.rate(), 6),
                        "minutes": round(trainer.seconds / 60, 1),
                        "minutes_left": round(left / 60, 1),
                    }
                ),
                flush=True,
            )
        if trainer.step % every == 0:
            trainer.save()
    trainer.save()


if __name__ == "__main__":
    main()

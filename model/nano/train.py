"""Train nano: ``python -m zoetrope.model.nano.train --out runs/nano``; run it again to resume, or with more ``--steps``
to continue.

The trainer is `model.training.trainer`; this module has the network, the recipe and the batches. Everything that
affects the result is written to ``training.json`` beside the weights.
"""

from __future__ import annotations

import argparse
import math
import platform
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder, LinearConfig
from zoetrope.model.codecs.text import TextEncoder
from zoetrope.model.families.nano import NANO_CONFIG
from zoetrope.model.nano import prompts
from zoetrope.model.nano.batches import FRAMES, OVERLAP, OVERLAP_SHARE, SIZES, cells, choose, conditions_of, sample
from zoetrope.model.nano.layout import SPATIAL, export, text_encoder_config
from zoetrope.model.nano.samples import Samples
from zoetrope.model.nano.world import render, sample_scenes
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.training import trainer as training
from zoetrope.model.training.balance import twin
from zoetrope.model.training.flow import draw_levels, flow_loss
from zoetrope.model.training.optimisers import Recipe, build_optimisers
from zoetrope.model.training.plain import PlainStepper

SHORT_FRAMES = ((5, 0.1), (9, 0.8), (17, 0.1))  # of the first part of a run


@dataclass
class TrainConfig:
    """The whole recipe."""

    steps: int = 8000
    batch_tokens: int = 4320  # 24 clips of 9 frames
    short: float = 0.4  # share of the steps with short clips only; shapes can be learned from them
    lr: float = 1e-3  # of AdamW: norms, biases, embeddings
    muon_lr: float = 4e-3  # of the matrices of the blocks
    warmup: int = 100
    decay: float = 0.3  # share of the steps over which the rates fall to 2 %
    weight_decay: float = 0.01
    ema: float = 0.996
    text_drop: float = 0.1
    shift: float = 3.0
    seed: int = 20261121
    balance_rate: float = 1e-3


@dataclass(frozen=True)
class NanoBatch:
    """Drawn clips as latents ``[B, C, T, H, W]`` with noise like them, ``sigmas`` [B], and what conditions them.

    ``overlap``: latent frames known from an earlier segment.
    """

    samples: Samples
    clean: torch.Tensor
    texts: list[str]
    sigmas: torch.Tensor
    noise: torch.Tensor
    overlap: int

    @property
    def count(self) -> int:
        return len(self.texts)


class Nano(nn.Module):
    """The two networks that are trained together, and their loss."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = WanTransformer(NANO_CONFIG)
        self.text_encoder = UMT5EncoderModel(UMT5Config(**text_encoder_config()))
        pass_through(self.transformer)
        look_nearby(self.transformer)
        self._tokenizer = prompts.build_tokenizer()
        self._autoencoder: LinearAutoencoder | None = None

    def attach(self, autoencoder: LinearAutoencoder) -> Nano:
        """Set the autoencoder that encodes the pictures of a batch."""
        self._autoencoder = autoencoder
        return self

    def forward(self, batch: NanoBatch) -> torch.Tensor:
        """Return the loss. Raises ValueError before `attach`."""
        if self._autoencoder is None:
            raise ValueError("nano trains with an autoencoder, see Nano.attach")
        encoder = TextEncoder(self._tokenizer, self.text_encoder, prompts.MAX_TEXT_TOKENS)
        embeddings = encoder.encode(batch.texts)
        encode = self._autoencoder.encode_batch
        conditions = conditions_of(batch.samples, batch.clean, embeddings, encode, batch.overlap)
        return flow_loss(self.transformer, list(batch.clean), conditions, batch.sigmas, list(batch.noise))


@torch.no_grad()
def pass_through(transformer: WanTransformer) -> None:
    """Initialise the network as the identity: most of a noisy token's velocity is the token itself.

    The embedding is an isometry and the output its transpose. Otherwise a small network takes longest to learn to pass
    some hundred dimensions through a width that is hardly larger.
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
    """Initialise half of the heads of every layer to attend to a neighbouring token.

    A constant part of q and k, rotated by RoPE, makes the score depend only on the distance; the neighbour (-1, 0 or 1
    along each axis) is drawn for each head. A small network takes long to learn this otherwise. Starting attention like
    a convolution is the idea of mimetic initialisation (Trockman and Kolter, 2305.09828).
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


class NanoSource:
    """Freshly drawn clips, see `model.nano.batches`; the two random generators are its state."""

    def __init__(self, config: TrainConfig, autoencoder: LinearAutoencoder) -> None:
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rng = random.Random(config.seed)
        self._config = config
        self._autoencoder = autoencoder

    def draw(self, step: int) -> NanoBatch:
        c, generator, rng = self._config, self.generator, self.rng
        lengths = SHORT_FRAMES if step < c.short * c.steps else FRAMES
        kind = choose(rng, SIZES, lengths)
        patch = math.prod(NANO_CONFIG.patch_size)
        tokens = cells(kind, self._autoencoder.spatial, self._autoencoder.temporal) // patch
        count = max(1, c.batch_tokens // tokens)
        samples = sample(kind, count, generator, rng)
        clean = self._autoencoder.encode_batch(samples.clips)
        texts = ["" if rng.random() < c.text_drop else t for t in samples.prompts]
        sigmas = draw_levels(count, c.shift, generator)
        noise = torch.randn(clean.shape, generator=generator)
        overlap = 0
        if clean.shape[2] > OVERLAP and samples.kind in ("image_to_video", "edit_video"):
            overlap = OVERLAP if rng.random() < OVERLAP_SHARE else 0
        return NanoBatch(samples, clean, texts, sigmas, noise, overlap)

    def state(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "rng": self.rng.getstate()}

    def restore(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
        self.rng.setstate(state["rng"])


class NanoTrainer(training.Trainer[NanoBatch]):
    """nano's run into ``out``, in one process."""

    net: Nano
    ema: Nano

    def __init__(self, config: TrainConfig, out: Path, device: torch.device) -> None:
        self.config, self.device = config, device
        torch.manual_seed(config.seed)
        net = Nano().to(device)
        if (out / "vae").exists():
            autoencoder = LinearAutoencoder.load(out / "vae")
        else:
            autoencoder = fit_autoencoder(config.seed)
            autoencoder.save(out / "vae")
        source = NanoSource(config, autoencoder)
        self.generator, self.rng = source.generator, source.rng
        recipe = Recipe(config.steps, config.warmup, config.decay, config.ema, config.balance_rate)
        self.optimizers = build_optimisers(net, "muon", config.lr, config.muon_lr, config.weight_decay)
        stepper = PlainStepper(net, self.optimizers, recipe.clip)
        super().__init__(net, source, stepper, recipe, out, self._write, twin(net))
        net.attach(autoencoder)

    def _write(self) -> None:
        export(self.out, self.ema.transformer, self.ema.text_encoder, self.record())

    def record(self) -> dict[str, Any]:
        """Return what a reader needs to repeat this run."""
        return {
            "command": "python -m zoetrope.model.nano.train " + " ".join(sys.argv[1:]),
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
    """Fit a linear autoencoder to 200 clips of every size; 15 seconds on two cores."""
    generator = torch.Generator().manual_seed(seed + 1)
    clips = [render(sample_scenes(200, h, w, 17, generator), h, w, 17) for (h, w), _ in SIZES]
    config = LinearConfig(z_dim=NANO_CONFIG.in_channels, scale_factor_spatial=SPATIAL)
    return LinearAutoencoder.fit(clips, config)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/nano"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--compile", action="store_true", help="compile the blocks (needs a C++ compiler; half again as fast on a CPU)"
    )
    parser.add_argument("--save-every", type=int, default=250, help="steps between saves")
    for name, value in asdict(TrainConfig()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    args = vars(parser.parse_args())
    compiled = args.pop("compile")
    out, device, every = args.pop("out"), torch.device(args.pop("device")), args.pop("save_every")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("medium")  # products in bfloat16, sums in float32, where the CPU or GPU can
    trainer = NanoTrainer(TrainConfig(**args), out, device)
    if compiled:
        for block in trainer.net.transformer.layers():
            block.compile(dynamic=True)
    if trainer.resume():
        print(f"resumed at step {trainer.step}", flush=True)
    trainer.run(every)


if __name__ == "__main__":
    main()

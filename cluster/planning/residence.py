"""Decides what of a model is on a GPU all the time, what comes when it is needed, and what a step then takes.

Of these ways the first that fits is taken: everything stays; the text encoder and the autoencoder come when they are
used; the guidance branches of a step follow each other; the layers of the transformer are streamed from the host; both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from zoetrope.cluster.planning.gang_plan import LATENT_COPIES, MESSAGE_ROWS
from zoetrope.cluster.planning.hardware import GIB, Hardware
from zoetrope.cluster.planning.rates import Rates
from zoetrope.cluster.planning.step_time import step_time
from zoetrope.cluster.planning.streaming import break_even_tokens, pass_seconds
from zoetrope.model.families.config import TEXT_TOKENS, TransformerConfig
from zoetrope.model.families.family import Preset
from zoetrope.model.network.costs import frames_of, rank_memory, tokens_of
from zoetrope.model.network.protocol import meta_network
from zoetrope.model.network.quantized import quantize_network
from zoetrope.model.request.load_options import Offload
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.streaming.choice import Split, split
from zoetrope.model.streaming.loading import layer_bytes

# Of Wan's encoders, from their shapes: UMT5-XXL in bfloat16, of which two layers and the table of words on the host if
# it is streamed, and an autoencoder in float32, which the conditioner and the decoder have one each of.
TEXT_ENCODER = 11_361_000_000
TEXT_LAYER = 386_000_000
AUTOENCODERS = {16: 508_000_000, 48: 2_820_000_000}
WORKING = 3 * GIB // 4  # assumed: activations of an encoder or a tile while it is in use


@dataclass(frozen=True)
class ResidenceMemory:
    """Bytes of one GPU, and of the host for one rank.

    Attributes:
        weights: of the transformers, slabs included. beside: the text encoder and the autoencoders, or what of them is
            there at a time.
    """

    weights: int
    activations: int
    buffers: int
    beside: int
    reserve: int
    available: int
    host: int

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.buffers + self.beside + self.reserve

    @property
    def fits(self) -> bool:
        return self.total <= self.available


@dataclass(frozen=True)
class Residence:
    """A way to run a clip on GPUs that are small for the model.

    Attributes:
        split: the layers that stay, and those that are streamed. encoders_stay: on the GPU between uses.
        branches: of guidance in one forward pass. tokens: of one branch. seconds: predicted, of a step.
        break_even: tokens of a forward pass from which streaming costs nothing; 0 if nothing is streamed.
        passes: forward passes of a step.
    """

    memory: ResidenceMemory
    split: Split
    encoders_stay: bool
    branches: int
    passes: int
    tokens: int
    seconds: float
    break_even: float

    @property
    def streams(self) -> bool:
        return bool(self.split.streamed)

    def words(self) -> str:
        """Describe it in a few words."""
        found = []
        if self.streams:
            count = len(self.split.sizes)
            found.append(f"{len(self.split.streamed)} of {count} blocks streamed")
        if self.passes > 1:
            found.append("branches one after the other")
        if not self.encoders_stay:
            found.append("encoders come when used")
        return ", ".join(found) or "all stays"


@dataclass(frozen=True)
class ClipWork:
    """A clip to run on GPUs of one kind.

    Attributes:
        width, height, frames: as denoised. ranks: that share its tokens and experts. groups: that share the guidance
            branches, each with so many ranks. shared: whether the text encoder
            and the autoencoders are on the same GPU, as in a service on one GPU.
    """

    preset: Preset
    gear: Hardware
    rates: Rates
    width: int
    height: int
    frames: int
    quantize: Quantize = "none"
    ranks: int = 1
    groups: int = 1
    shared: bool = True
    text_tokens: int = TEXT_TOKENS

    @classmethod
    def of(
        cls, preset: Preset, gear: Hardware, rates: Rates, size: tuple[int, int], seconds: float = 0.0, **more: object
    ) -> ClipWork:
        """Describe a clip of the model's own length, or of so many seconds if that is less."""
        width, height = preset.denoised_size(*size)
        own = preset.sampling.frames
        frames = min(own, frames_of(seconds, preset.sampling.fps, preset.vae.temporal)) if seconds else own
        return cls(preset, gear, rates, width, height, frames, **more)  # type: ignore[arg-type]

    @property
    def tokens(self) -> int:
        return tokens_of(self.width, self.height, self.frames, self.preset.vae, self.preset.config.patch_size)

    @property
    def branches(self) -> int:
        """Return the guidance branches of a group."""
        return math.ceil((2 if self.preset.sampling.guidance > 1 else 1) / self.groups)


def residence(work: ClipWork, offload: Offload = "auto") -> Residence | None:
    """Return the first way that fits, None if there is none. Raises ValueError if the ranks do not divide the model."""
    return next((way for way in ways(work, offload) if way.memory.fits), None)


def ways(work: ClipWork, offload: Offload = "auto") -> Iterator[Residence]:
    """Yield the ways to run a clip, whether or not they fit, best first."""
    counts = sorted({work.branches, 1}, reverse=True)
    if offload != "always":
        for stay in (True, False) if work.shared and offload == "auto" else (True,):
            for branches in counts:
                if branches == work.branches or not stay or offload == "never" or not work.shared:
                    yield _way(work, branches, stay, room=None)
    if offload != "never":
        for branches in counts:
            yield _way(work, branches, not work.shared, room=_room(work, branches) if offload == "auto" else 0)


def _way(work: ClipWork, branches: int, stay: bool, room: int | None) -> Residence:
    config, networks = work.preset.config, work.preset.transformers
    sizes, other = layers_of(config, work.quantize, work.ranks)
    whole = split(sizes, networks * sum(sizes), networks)
    made = whole if room is None else split(sizes, room - networks * other, networks)
    tokens = work.tokens * branches
    held = rank_memory(config, tokens, work.ranks, networks, value_bytes=work.gear.value_bytes, quantize=work.quantize)
    memory = ResidenceMemory(
        weights=networks * other + made.device_bytes,
        activations=held.activations,
        buffers=_buffers(work, branches),
        beside=_beside(work, stay),
        reserve=work.gear.reserve,
        available=work.gear.memory,
        host=made.host_bytes,
    )
    passes = work.branches // branches
    time = step_time(
        config,
        [work.tokens] * branches,
        work.rates,
        sequence_ranks=work.ranks,
        text_tokens=work.text_tokens,
        quantize=work.quantize,
    ).total
    break_even = 0.0
    if made.streamed:
        compute = [time / len(sizes)] * len(sizes)
        copy = [0.0 if n in made.resident else size / work.gear.host for n, size in enumerate(sizes)]
        time = pass_seconds(compute, copy)
        largest = max(sizes[number] for number in made.streamed)
        break_even = work.ranks * break_even_tokens(config, largest, work.gear.host, work.rates)
    return Residence(memory, made, stay, branches, passes, work.tokens, passes * time, break_even)


def _room(work: ClipWork, branches: int) -> int:
    """What is left for the transformers' weights if they are streamed."""
    config, gear = work.preset.config, work.gear
    tokens = work.tokens * branches
    held = rank_memory(config, tokens, work.ranks, value_bytes=gear.value_bytes, quantize=work.quantize)
    beside = _beside(work, stay=not work.shared)
    return max(0, gear.memory - gear.reserve - held.activations - _buffers(work, branches) - beside)


def _buffers(work: ClipWork, branches: int) -> int:
    """States of a segment, messages, and the keys and values of texts; as `cluster.planning.gang_plan` counts them."""
    config, size = work.preset.config, work.gear.value_bytes
    latents = LATENT_COPIES * 4 * work.tokens * math.prod(config.patch_size) * config.out_channels
    messages = 0
    if work.ranks > 1:
        messages = math.ceil(work.tokens * branches / work.ranks) * MESSAGE_ROWS * config.dim * size
    return latents + messages + config.remembered_values(work.text_tokens) * size * branches * work.preset.transformers


def _beside(work: ClipWork, stay: bool) -> int:
    if not work.shared:
        return 0
    autoencoder = AUTOENCODERS.get(work.preset.vae.z_dim, AUTOENCODERS[16]) if work.preset.vae.name else 0
    encoder = TEXT_ENCODER if work.preset.config.text_dim == 4096 else 0  # UMT5-XXL's width; toys have toys
    if stay:
        return encoder + 2 * autoencoder
    return (max(2 * TEXT_LAYER if encoder else 0, autoencoder) + WORKING) if encoder else 0


@lru_cache(maxsize=32)
def layers_of(config: TransformerConfig, quantize: Quantize, ranks: int = 1) -> tuple[list[int], int]:
    """Return the bytes of each layer of a network on a GPU, and of all else. Raises ValueError if it has no such
    form."""
    network = meta_network(config)
    if quantize != "none":
        quantize_network(network, torch.bfloat16)
    return layer_bytes(network, torch.bfloat16, ranks)

"""The options that make clips faster or smaller, and what must change nothing: how clips are made with each.

A model is loaded when a way first makes a clip, so that a run that goes on loads only what it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch.compiler import set_stance

from zoetrope.benchmarks.attention_error import AttentionInputs, attention_by, dense_methods
from zoetrope.benchmarks.quality.engine import Way, decoder, plain
from zoetrope.benchmarks.quality.sampling import INTERVAL, LEVELS, options_of
from zoetrope.benchmarks.quality.tiles import TILING, decode_tiled, working_bytes
from zoetrope.cluster.parallel.compiled import COMPILED, longest_clip, measure
from zoetrope.kernels import CuSeqlens
from zoetrope.kernels.reference.quantise_qkv import quantise_qkv
from zoetrope.model.catalog.model_card import scheduler_config
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.denoising.denoise import Denoiser
from zoetrope.model.denoising.forward import run_alone
from zoetrope.model.nano.cases import Frames, NanoCase
from zoetrope.model.nano.samples import TaskKind
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.pipeline import LocalPipeline, quiet
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.tasks import ModelCard

DISTILL = "nano-4step"
NEIGHBOUR_SEED = 3  # of the clips that share a batch with others
SPEED = ("bf16", "fp8", "attention-8bit", *LEVELS, f"{INTERVAL}0-0.5", DISTILL, "tiles")
FLOOR = ("again", "neighbours", "compiled")  # what should not change a clip
TITLES = {
    "bf16": "weights and activations in bfloat16",
    "fp8": "`--quantize fp8`",
    "attention-8bit": "queries and keys of attention in int8",
    "balanced": "`quality: balanced`",
    "fast": "`quality: fast`",
    DISTILL: "the distill for 4 steps",
    "tiles": f"decoded in tiles of {TILING.tile_width} x {TILING.tile_height} pixels",
    "again": "the same seeds again",
    "neighbours": "each clip in a batch with another one than before",
    "compiled": "through torch.compile",
}
GainKind = Literal["forwards", "bytes of weights", "bytes of queries, keys and values", "bytes of decoding"]


@dataclass(frozen=True)
class Size:
    """What an option makes smaller, in bytes, before and after."""

    kind: GainKind
    exact: int
    other: int


def title_of(name: str) -> str:
    """Describe an option in a few words."""
    if name.startswith(INTERVAL):
        start, end = options_of(name).values()
        return f"guidance in the steps from {start:.0%} to {end:.0%} alone"
    return TITLES[name]


def check_name(name: str) -> None:
    """Raise ValueError if there is no such option."""
    if name not in TITLES:
        try:
            options_of(name)
        except ValueError:
            known = ", ".join([*TITLES, f"{INTERVAL}START-END"])
            raise ValueError(f"{name!r} is not one of {known}") from None


class QualityOptions:
    """Ways of making nano's clips. ``exact`` is loaded; everything else when it is needed."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.pipeline = LocalPipeline.load(card)
        self.exact = plain("exact", self.pipeline, card)

    def way(self, name: str) -> Way:
        """Return the way of an option.

        Raises:
            ValueError: there is none of that name.
        """
        check_name(name)
        special: dict[str, Callable[[], Way]] = {
            "bf16": lambda: self._with(name, lambda: self._bf16),
            "fp8": lambda: self._with(name, lambda: self._fp8),
            "attention-8bit": lambda: replace(self.exact, name=name, latents=self._attend_in_8_bits),
            DISTILL: lambda: replace(self._with(name, lambda: self._distill), card=find_model(DISTILL)),
            "tiles": lambda: replace(self.exact, name=name, latents=None, decode=self._decode_tiled),
            "again": lambda: replace(self.exact, name=name, same_batch=True),
            "neighbours": lambda: replace(self.exact, name=name, latents=self._beside_another),
            "compiled": lambda: replace(
                self._with(name, lambda: self._compiled, lambda: set_stance(COMPILED)), same_batch=True
            ),
        }
        if name in special:
            return special[name]()
        return plain(name, self.pipeline, self.card, options_of(name))

    def size(self, name: str) -> Size | None:
        """Return what an option makes smaller; None if it is not a matter of bytes."""
        ours = self.pipeline.denoiser.transformer
        if name in ("bf16", "fp8"):
            other = (self._bf16 if name == "bf16" else self._fp8).denoiser.transformer
            return Size("bytes of weights", weight_bytes(ours), weight_bytes(other))
        if name == "attention-8bit":
            config = ours.config
            kept, made = attention_bytes(longest_clip(self.card), config.num_attention_heads, config.attention_head_dim)
            return Size("bytes of queries, keys and values", kept, made)
        if name == "tiles":
            width, height = max(self.card.native_sizes, key=lambda size: size[0] * size[1])
            cells = (self.card.latent_channels, 2, height // self.card.spatial, width // self.card.spatial)
            return Size("bytes of decoding", *working_bytes(self.pipeline.autoencoder, torch.zeros(cells)))
        return None

    @cached_property
    def _bf16(self) -> LocalPipeline:
        network = load_transformer(self.card, self.pipeline.denoiser.device, dtype=torch.bfloat16)
        return self._around(self.card, network)

    @cached_property
    def _fp8(self) -> LocalPipeline:
        card = find_model(self.card.name, LoadOptions(quantize="fp8"))
        return self._around(card, load_transformer(card, self.pipeline.denoiser.device))

    @cached_property
    def _distill(self) -> LocalPipeline:
        return LocalPipeline.load(find_model(DISTILL))

    @cached_property
    def _compiled(self) -> LocalPipeline:
        network = load_transformer(self.card, self.pipeline.denoiser.device)
        gains = measure([network], run_alone, longest_clip(self.card), self.card.max_text_tokens, ladder=(64,))
        if not gains.rungs:
            raise RuntimeError("compiled: nothing can be compiled here, the log says why")
        return self._around(self.card, network)

    def _around(self, card: ModelCard, network: Network) -> LocalPipeline:
        """Return the pipeline with another network."""
        whole = self.pipeline
        return LocalPipeline(
            whole.text, Denoiser(network, scheduler_config(card)), whole.autoencoder, whole.conditioner
        )

    def _with(
        self,
        name: str,
        pipeline: Callable[[], LocalPipeline],
        context: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Way:
        """Return the way of another pipeline, which is asked for at the first clip."""

        def latents(cases: list[NanoCase]) -> list[torch.Tensor]:
            with context():
                return run(pipeline(), cases)

        return Way(name, self.card, latents, lambda clip: decoder(pipeline())(clip))

    def _beside_another(self, cases: list[NanoCase]) -> list[torch.Tensor]:
        """Make each case in a batch with one of another task, whose noise and text differ from those of all cases."""
        found = []
        for case in cases:
            kind: TaskKind = "image_to_video" if case.kind == "text_to_video" else "text_to_video"
            (other,) = self.exact.cases(kind, 1, NEIGHBOUR_SEED, case.spec.steps)
            found.append(run(self.pipeline, [other, case])[1])
        return found

    def _attend_in_8_bits(self, cases: list[NanoCase]) -> list[torch.Tensor]:
        attend = dense_methods()["int8"]

        def eight(_name: str, inputs: AttentionInputs) -> torch.Tensor:
            return attend(*inputs.args)

        with attention_by(self.pipeline, eight):
            return run(self.pipeline, cases)

    def _decode_tiled(self, clip: torch.Tensor) -> Frames:
        return decode_tiled(self.pipeline.autoencoder, self.card.spatial, clip)


def run(pipeline: LocalPipeline, cases: list[NanoCase]) -> list[torch.Tensor]:
    """Make the latents of cases in one batch."""
    return pipeline.run_batch([case.spec for case in cases], quiet, [case.inputs for case in cases])


def weight_bytes(network: Network) -> int:
    """Return the bytes of a network's parameters and buffers."""
    module = module_of(network)
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def attention_bytes(tokens: int, heads: int, dim: int) -> tuple[int, int]:
    """Return the bytes that a call of self-attention reads of one sequence: in bfloat16, and in 8 bits."""
    q, k, v = (torch.zeros(tokens, heads, dim, dtype=torch.bfloat16) for _ in range(3))
    cu = CuSeqlens.of([tokens])
    eight = quantise_qkv(q, k, v, cu, cu)
    found = (eight.q, eight.q_scale, eight.k, eight.k_scale, eight.v)
    return sum(x.nbytes for x in (q, k, v)), sum(x.nbytes for x in found)

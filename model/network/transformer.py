"""Wan's diffusion transformer over packed sequences, for all Wan families; parameter names are those of diffusers'
WanTransformer3DModel and WanVACETransformer3DModel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import repeat

import torch
from torch import nn

from zoetrope.kernels import residual_norm
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.network.arrivals import RESIDENT, WeightArrivals
from zoetrope.model.network.blocks import Block, Hidden
from zoetrope.model.network.embedders import ConditionEmbedder, PatchEmbedding
from zoetrope.model.network.initial import normal
from zoetrope.model.network.precision import EXPERT_STACKS, FLOAT32_MODULES
from zoetrope.model.network.remembered import KeysValues, Remembered
from zoetrope.model.network.sequences import PackedBatch, Sequence, check_alike, pack, token_grid
from zoetrope.model.network.vace import VaceBlock


class WanTransformer(nn.Module):
    """Wan's `model.network.protocol.Network`."""

    float32_modules = FLOAT32_MODULES
    expert_stacks = EXPERT_STACKS

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        patch = config.patch_size
        self.patch_embedding = PatchEmbedding(config.in_channels, config.dim, patch)
        self.condition_embedder = ConditionEmbedder(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self._vace_number = {layer: number for number, layer in enumerate(sorted(config.vace_layers))}
        if config.vace_layers:
            self.vace_patch_embedding = PatchEmbedding(config.vace_in_channels, config.dim, patch)
            self.vace_blocks = nn.ModuleList(VaceBlock(config, i == 0) for i in range(len(config.vace_layers)))
        self.proj_out = nn.Linear(config.dim, config.out_channels * math.prod(patch))
        self.scale_shift_table = nn.Parameter(normal(1, 2, config.dim, std=config.dim**-0.5))
        self.arrivals: WeightArrivals = RESIDENT
        self._remembered = Remembered()

    @property
    def device(self) -> torch.device:
        return self.proj_out.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.proj_out.weight.dtype

    def forward(self, batch: PackedBatch) -> torch.Tensor:
        """Return ``[N, patch volume * out_channels]`` for all tokens; `unpack_targets` extracts the clips."""
        given = self.patch_embedding(batch.tokens)
        temb, modulation = self.condition_embedder.time(batch.timesteps)
        texts, image = self._contexts(batch, given.dtype)
        rope = (batch.cos, batch.sin)
        x = Hidden(given)
        control = None if batch.hints is None else self.vace_patch_embedding(batch.hints)
        for layer, block in enumerate(self.blocks):
            with self.arrivals.of(block):
                x = block(x, next(texts), image, modulation, rope, batch)
            if control is not None and batch.hint_scales is not None and layer in self._vace_number:
                # Hints depend only on the network's input; computing them one by one keeps a single one in memory.
                number = self._vace_number[layer]
                vace_block = self.vace_blocks[number]
                assert isinstance(vace_block, VaceBlock)
                with self.arrivals.of(vace_block):
                    hint, control = vace_block.hint(control, given, next(texts), image, modulation, rope, batch)
                hint = hint * batch.hint_scales[:, number, None].to(hint.dtype)
                x = Hidden(x.settle(batch.noise_row) + hint)
        shift, scale = (self.scale_shift_table.float() + temb[:, None]).unbind(1)
        row, eps = batch.noise_row, self.config.eps
        _, h = residual_norm(x.residual, x.update, x.gate, row, shift=shift, scale=scale, eps=eps)
        out: torch.Tensor = self.proj_out(h)
        return out

    def _contexts(
        self, batch: PackedBatch, dtype: torch.dtype
    ) -> tuple[Iterator[torch.Tensor | KeysValues], torch.Tensor | None]:
        """Return what the layers attend to beside the tokens, in their order, and the image tokens for those that have
        not read them yet.

        In service, where weights stay as they are, each layer's keys and values, computed when the layer is reached:
        only then its weights are sure to be there. Else the embedded text, the same for all.
        """
        if batch.contexts is not None:
            return iter(batch.contexts), None
        weight = self.condition_embedder.text_embedder.linear_1.weight
        if torch.is_inference_mode_enabled() and not self.training and not weight.requires_grad:
            return self._layers_contexts(batch), None
        return repeat(self._text(batch, dtype)), self._image(batch, dtype)

    def contexts(self, batch: PackedBatch) -> tuple[KeysValues, ...]:
        """Return each layer's keys and values of the batch's text and image tokens, computed unless those of the last
        call were the same tensors."""
        made, found = self._layers_contexts(batch), []
        for layer in self.layers():
            with self.arrivals.of(layer):
                found.append(next(made))
        return tuple(found)

    def _layers_contexts(self, batch: PackedBatch) -> Iterator[KeysValues]:
        given, weight = (*batch.texts, *batch.images), self.condition_embedder.text_embedder.linear_1.weight
        adapters = () if batch.adapters is None else batch.adapters.uses
        return self._remembered.fill(given, weight, partial(self._keys_values, batch), adapters)

    def _keys_values(self, batch: PackedBatch, start: int) -> Iterator[KeysValues]:
        """Compute the keys and values of the layers from ``start`` on, each when it is asked for."""
        dtype = self.patch_embedding.weight.dtype
        text, image = self._text(batch, dtype), self._image(batch, dtype)
        for block in self.layers()[start:]:
            yield block.attn2.remember(text, image, block.adapted(batch))

    def _text(self, batch: PackedBatch, dtype: torch.dtype) -> torch.Tensor:
        return self.condition_embedder.text(batch.text.to(dtype))

    def _image(self, batch: PackedBatch, dtype: torch.dtype) -> torch.Tensor | None:
        image = batch.image
        return None if image is None else self.condition_embedder.image(image.to(dtype))

    def pack(self, sequences: list[Sequence]) -> PackedBatch:
        """Pack sequences end to end with this network's patch and positions.

        Raises:
            ValueError: a sequence lacks image tokens or hints that this network needs, has some that it does not take,
                or has another number of channels.
        """
        self.check(sequences)
        config = self.config
        return pack(sequences, config.patch_size, config.attention_head_dim, config.rope_theta)

    def check(self, sequences: list[Sequence]) -> None:
        """Check sequences as `pack` does, without packing them. Raises ValueError as `pack`."""
        for sequence in sequences:
            self._check(sequence)
        check_alike(sequences)

    def _check(self, sequence: Sequence) -> None:
        config = self.config
        if sequence.text.ndim != 2 or sequence.text.shape[1] != config.text_dim:
            raise ValueError(f"text is {tuple(sequence.text.shape)}, this network takes [tokens, {config.text_dim}]")
        for stream in sequence.streams:
            token_grid(stream, config.patch_size)
            if stream.latents.shape[0] != config.in_channels:
                raise ValueError(f"a stream has {stream.latents.shape[0]} channels, this network {config.in_channels}")
        if (sequence.image is not None) != (config.image_dim is not None):
            raise ValueError(_mismatch("image tokens", sequence.image is not None))
        if sequence.image is not None:
            count, width = sequence.image.shape
            if width != config.image_dim:
                raise ValueError(f"image tokens are {width} wide, this network takes {config.image_dim}")
            if config.pos_embed_seq_len not in (None, count):
                raise ValueError(f"a sequence has {count} image tokens, this network takes {config.pos_embed_seq_len}")
        if (sequence.hints is not None) != bool(config.vace_layers):
            raise ValueError(_mismatch("hints", sequence.hints is not None))
        if sequence.hints is not None:
            if sequence.hints.shape[0] != config.vace_in_channels:
                raise ValueError(
                    f"hints have {sequence.hints.shape[0]} channels, this network {config.vace_in_channels}"
                )
            if len(sequence.hint_scales) != len(config.vace_layers):
                raise ValueError(f"{len(sequence.hint_scales)} hint scales for {len(config.vace_layers)} VACE layers")

    def layers(self) -> list[Block]:
        """List the blocks in the order of a forward pass; a VACE block after the one that its hint is added to."""
        ordered: list[nn.Module] = []
        for layer, block in enumerate(self.blocks):
            ordered.append(block)
            if layer in self._vace_number:
                ordered.append(self.vace_blocks[self._vace_number[layer]])
        return [block for block in ordered if isinstance(block, Block)]


def _mismatch(what: str, given: bool) -> str:
    return f"a sequence has {what}, this network takes none" if given else f"this network needs {what} in each sequence"

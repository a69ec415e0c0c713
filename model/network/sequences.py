"""Streams of latent tokens, and many sequences packed end to end for one forward pass.

A *stream* is a block of latents with a source id (0 is the clip being denoised, 1, 2, ... are clean sources) and a
noise level for each latent frame. A *sequence* is the streams of one segment and one guidance branch, sources in
front of the target. A *packed batch* holds the tokens of many sequences, which do not see each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoetrope.kernels import CuSeqlens
from zoetrope.kernels.types.upload import upload
from zoetrope.model.families.config import WAN_THETA
from zoetrope.model.network.adapted import SlotPlan, SlotUse
from zoetrope.model.network.exchange import ALONE, Exchange
from zoetrope.model.network.remembered import KeysValues
from zoetrope.model.network.rope import Placed, positions

TARGET = 0


@dataclass(frozen=True)
class Stream:
    """A block of latents: ``latents`` [C, T, H, W]; ``timesteps`` [T] float32 in 0..1000, 0 for a clean frame.

    Timesteps on the host save `pack` a wait for the device.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    source_id: int = TARGET


@dataclass(frozen=True)
class Sequence:
    """Streams in attention order, the target last, and the text ``[L, text_dim]`` that conditions them.

    Attributes:
        image: CLIP tokens ``[K, image_dim]``, attended to beside the text.
        hints: VACE's control latents ``[vace_in_channels, T, H, W]`` on the grid of the target; a sequence with hints
            has no other stream. hint_scales: their weight in each VACE layer.
        adapter: what it has of the network's slots.
    """

    streams: tuple[Stream, ...]
    text: torch.Tensor
    image: torch.Tensor | None = None
    hints: torch.Tensor | None = None
    hint_scales: tuple[float, ...] = ()
    adapter: SlotUse | None = None

    @property
    def target(self) -> Stream:
        return self.streams[-1]


@dataclass(frozen=True)
class PackedBatch:
    """Tokens ``[N, C * patch volume]`` of all sequences, with the positions, noise levels and text of each."""

    tokens: torch.Tensor
    cos: torch.Tensor  # [N, head_dim / 2] float32
    sin: torch.Tensor
    timesteps: torch.Tensor  # [R] float32, the distinct noise levels of the batch
    noise_row: torch.Tensor  # [N] int64, a token's row in `timesteps`
    cu_tokens: CuSeqlens
    texts: tuple[torch.Tensor, ...]  # of each sequence, [tokens, text_dim]
    cu_text: CuSeqlens
    targets: tuple[tuple[int, tuple[int, int, int]], ...]  # per sequence: first target token and its token grid
    images: tuple[torch.Tensor, ...] = ()  # of each sequence, [tokens, image_dim]; or none
    cu_image: CuSeqlens | None = None
    hints: torch.Tensor | None = None  # [N, vace_in_channels * patch volume]
    hint_scales: torch.Tensor | None = None  # [N, VACE layers] float32
    exchange: Exchange = ALONE  # with the ranks that have the other tokens
    contexts: tuple[KeysValues, ...] | None = None  # of each layer, if they were computed before (`Network.contexts`)
    adapters: SlotPlan | None = None  # of the sequences that have one

    @property
    def text(self) -> torch.Tensor:
        """The text of all sequences, ``[M, text_dim]``."""
        return torch.cat(self.texts)

    @property
    def image(self) -> torch.Tensor | None:
        """The image tokens of all sequences, ``[K, image_dim]``; None for networks without."""
        return torch.cat(self.images) if self.images else None

    def part(self, start: int, stop: int, exchange: Exchange) -> PackedBatch:
        """Return the rows ``start:stop``, with the text and image tokens of the sequences that these rows belong to.

        Noise levels stay those of the whole batch. Targets are left out: they may be in other parts.
        """
        offsets = self.cu_tokens.offsets
        present = [i for i in range(len(self.cu_tokens.lengths)) if max(start, offsets[i]) < min(stop, offsets[i + 1])]
        rows = slice(start, stop)
        cu_tokens = CuSeqlens.of(min(stop, offsets[i + 1]) - max(start, offsets[i]) for i in present)
        cu_text = CuSeqlens.of(self.cu_text.lengths[i] for i in present)
        cu_image = None if self.cu_image is None else CuSeqlens.of(self.cu_image.lengths[i] for i in present)
        adapters = self.adapters
        if adapters is not None:
            uses = tuple(adapters.uses[i] for i in present)
            adapters = SlotPlan.of(uses, cu_tokens, cu_text, cu_image, self.tokens.device)
        return replace(
            self,
            tokens=self.tokens[rows],
            cos=self.cos[rows],
            sin=self.sin[rows],
            noise_row=self.noise_row[rows],
            cu_tokens=cu_tokens,
            texts=tuple(self.texts[i] for i in present) or tuple(text[:0] for text in self.texts[:1]),
            cu_text=cu_text,
            targets=(),
            images=tuple(self.images[i] for i in present if self.images) or tuple(x[:0] for x in self.images[:1]),
            cu_image=cu_image,
            hints=None if self.hints is None else self.hints[rows],
            hint_scales=None if self.hint_scales is None else self.hint_scales[rows],
            exchange=exchange,
            contexts=None,
            adapters=adapters,
        )


def patchify(latents: torch.Tensor, patch: tuple[int, int, int]) -> torch.Tensor:
    """Cut ``[C, T, H, W]`` into ``[tokens, C * pt * ph * pw]``, features in the order of a Conv3d weight."""
    c, t, h, w = latents.shape
    pt, ph, pw = patch
    x = latents.reshape(c, t // pt, pt, h // ph, ph, w // pw, pw)
    return x.permute(1, 3, 5, 0, 2, 4, 6).reshape(-1, c * pt * ph * pw)


def unpatchify(tokens: torch.Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> torch.Tensor:
    """Assemble ``[tokens, pt * ph * pw * C]`` (Wan's output order, channels last) to ``[C, T, H, W]``."""
    (t, h, w), (pt, ph, pw) = grid, patch
    x = tokens.reshape(t, h, w, pt, ph, pw, -1)
    return x.permute(6, 0, 3, 1, 4, 2, 5).reshape(-1, t * pt, h * ph, w * pw)


def pack(
    sequences: list[Sequence], patch: tuple[int, int, int], head_dim: int, theta: float = WAN_THETA
) -> PackedBatch:
    """Pack sequences end to end.

    Raises:
        ValueError: a stream's latents are not divisible by the patch, its timesteps do not match its frames, or only
            some of the sequences have image tokens or hints.
    """
    check_alike(sequences)
    tokens: list[torch.Tensor] = []
    grids: list[Placed] = []
    levels: list[torch.Tensor] = []  # of the latent frames
    lengths: list[int] = []
    targets: list[tuple[int, tuple[int, int, int]]] = []
    start = 0
    for sequence in sequences:
        length = 0
        for stream in sequence.streams:
            grid = token_grid(stream, patch)
            tokens.append(patchify(stream.latents, patch))
            grids.append((stream.source_id, grid))
            levels.append(stream.timesteps[:: patch[0]].float())
            length += math.prod(grid)
        targets.append((start + length - math.prod(grid), grid))
        lengths.append(length)
        start += length
    device = tokens[0].device
    cos, sin = positions(tuple(grids), head_dim, theta, device)
    timesteps, frame_row = torch.cat(levels).cpu().unique(return_inverse=True)
    frame_tokens = torch.tensor([h * w for _, (t, h, w) in grids for _ in range(t)])
    timesteps, frame_row, frame_tokens = (upload(x, device) for x in (timesteps, frame_row, frame_tokens))
    cu_tokens, cu_text = CuSeqlens.of(lengths), CuSeqlens.of(s.text.shape[0] for s in sequences)
    beside = _beside(sequences, patch, lengths, device)
    uses = tuple(s.adapter for s in sequences)
    return PackedBatch(
        tokens=torch.cat(tokens),
        cos=cos,
        sin=sin,
        timesteps=timesteps,
        noise_row=frame_row.repeat_interleave(frame_tokens, output_size=start),
        cu_tokens=cu_tokens,
        texts=tuple(s.text for s in sequences),
        cu_text=cu_text,
        targets=tuple(targets),
        adapters=SlotPlan.of(uses, cu_tokens, cu_text, beside.get("cu_image"), device),
        **beside,
    )


def _beside(
    sequences: list[Sequence], patch: tuple[int, int, int], lengths: list[int], device: torch.device
) -> dict[str, Any]:
    """Return the image tokens and hints of a batch, which all sequences have or none."""
    fields: dict[str, Any] = {}
    images = tuple(s.image for s in sequences if s.image is not None)
    if images:
        fields.update(images=images, cu_image=CuSeqlens.of(len(image) for image in images))
    hints = [s.hints for s in sequences if s.hints is not None]
    if hints:
        scales = upload(torch.tensor([s.hint_scales for s in sequences]), device)
        counts = upload(torch.tensor(lengths), device)
        fields.update(
            hints=torch.cat([patchify(h, patch) for h in hints]),
            hint_scales=scales.repeat_interleave(counts, dim=0, output_size=sum(lengths)),
        )
    return fields


def check_alike(sequences: list[Sequence]) -> None:
    """Check that sequences can share a batch. Raises ValueError as `pack`."""
    for name, count in (
        ("image tokens", sum(s.image is not None for s in sequences)),
        ("hints", sum(s.hints is not None for s in sequences)),
    ):
        if count not in (0, len(sequences)):
            raise ValueError(f"{count} of {len(sequences)} sequences have {name}; in one batch all have them or none")
    for sequence in sequences:
        hints, target = sequence.hints, sequence.target.latents
        if hints is not None and (len(sequence.streams) > 1 or hints.shape[1:] != target.shape[1:]):
            raise ValueError(
                f"hints of {tuple(hints.shape[1:])} for {len(sequence.streams)} streams, "
                f"the last of {tuple(target.shape[1:])}: they need a single stream of their own size"
            )


def unpack_targets(output: torch.Tensor, batch: PackedBatch, patch: tuple[int, int, int]) -> list[torch.Tensor]:
    """Return the target latents ``[C, T, H, W]`` of each sequence from the network's output ``[N, patch volume *
    C]``."""
    return [
        unpatchify(output[first : first + grid[0] * grid[1] * grid[2]], grid, patch) for first, grid in batch.targets
    ]


def count_tokens(sequence: Sequence, patch: tuple[int, int, int]) -> int:
    """Count the tokens of all streams. Raises ValueError as `pack`."""
    return sum(math.prod(token_grid(stream, patch)) for stream in sequence.streams)


def token_grid(stream: Stream, patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the number of tokens of a stream along time, height and width.

    Raises:
        ValueError: as `pack`.
    """
    _, t, h, w = stream.latents.shape
    if t % patch[0] or h % patch[1] or w % patch[2]:
        raise ValueError(f"latents of {t} x {h} x {w} do not divide into patches of {patch}")
    if stream.timesteps.shape != (t,):
        raise ValueError(f"timesteps have shape {tuple(stream.timesteps.shape)} for {t} latent frames")
    return t // patch[0], h // patch[1], w // patch[2]

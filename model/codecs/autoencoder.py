"""Encode pixels to latents and decode them: diffusers' AutoencoderKLWan, or a linear autoencoder in the same layout."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch

from zoetrope.model.codecs.chunk_decoder import ChunkDecoder
from zoetrope.model.codecs.decode_plan import DecodePlan, DecodePlanner, Decoding
from zoetrope.model.codecs.device_memory import DeviceMemory
from zoetrope.model.codecs.tile_caches import Copies, CudaCopies, DeviceCaches, HostCaches, TileCaches
from zoetrope.model.codecs.tiling import TileSpan, Tiling, spans
from zoetrope.model.streaming.parked import Parked

if TYPE_CHECKING:  # it takes seconds to import, and many processes do not need it
    from diffusers import AutoencoderKLWan


class Autoencoder(Protocol):
    """What callers need of an autoencoder. Clips are ``[3, F, H, W]`` float32 in -1..1; pictures have F = 1.

    ``streams``: that are decoded faster side by side than one after the other.
    """

    z_dim: int
    temporal: int
    spatial: int
    streams: int

    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """Return normalised latents ``[z_dim, 1 + (F - 1) / temporal, H / spatial, W / spatial]`` (posterior mode).

        Raises:
            ValueError: F is not 1 modulo ``temporal``, or a side is not a multiple of ``spatial``.
        """

    def decode_stream(self, latents: torch.Tensor, tiling: Tiling | None = None) -> Iterator[torch.Tensor]:
        """Yield chunks ``[3, f, H, W]`` of the clip in order, as soon as they are ready, clamped to -1..1.

        One chunk per latent frame: one frame for the first, ``temporal`` for the others. A latent frame is not read
        before its chunk is requested. Several streams of one autoencoder may be open at a time.

        Args:
            tiling: decode in tiles if a whole frame does not fit into memory; it changes pixels near their borders.

        Raises:
            ValueError: the tiles do not consist of whole latent cells.
        """


class WanAutoencoder:
    """diffusers' AutoencoderKLWan (of Wan 2.1 and 2.2); latents are normalised as in Wan's pipelines,
    ``(z - mean) / std``. Encoding is in float32; how it decodes is a `Decoding`."""

    def __init__(
        self,
        network: AutoencoderKLWan,
        decoding: Decoding | None = None,
        more_devices: Sequence[torch.device] = (),
        copies: Callable[[torch.device], Copies] = CudaCopies,
        *,
        stays: bool = True,
    ) -> None:
        """Take over a network in float32; if it decodes in another dtype, its decoder is changed.

        Args:
            more_devices: that decode too, each with a copy of the decoder; ``decoding.devices - 1`` of them.
            copies: how caches of tiles travel between a device and the host.
            stays: false to keep the network in host memory while it is not in use.

        Raises:
            ModelError: the host has too little memory for that.
        """
        self._copies = copies
        self._network = network
        config = network.config
        self.z_dim = int(config.z_dim)
        self.temporal = int(config.scale_factor_temporal)
        self.spatial = int(config.scale_factor_spatial)
        self.planner = DecodePlanner(config, network.device.type, decoding or Decoding())
        first = ChunkDecoder.of(network, self.planner.dtype)
        self._decoders = [first, *(first.on(device) for device in more_devices)]
        self.streams = len(self._decoders)
        self._moments = [_moments(config, decoder.device) for decoder in self._decoders]
        self._memory = [DeviceMemory(decoder.device) for decoder in self._decoders]
        self._options: dict[tuple[int, int, Tiling], list[DecodePlan]] = {}  # what fits, best first
        self._planning = threading.Lock()
        self._encoding = threading.Lock()  # diffusers keeps the frames before a chunk in the network itself
        self._parked = None if stays else Parked(network, first.device)

    @torch.inference_mode()
    def encode(self, clip: torch.Tensor) -> torch.Tensor:
        """See `Autoencoder.encode`."""
        _, frames, height, width = clip.shape
        if (frames - 1) % self.temporal or height % self.spatial or width % self.spatial:
            raise ValueError(
                f"clip of {frames} x {height} x {width}: frames must be {self.temporal}n+1, "
                f"sides multiples of {self.spatial}"
            )
        with self._encoding, self._here():
            mode = self._network.encode(clip[None].to(self._network.device)).latent_dist.mode()[0]
        mean, std = self._moments[0]
        latents: torch.Tensor = (mode - mean) / std
        return latents

    def decode_stream(self, latents: torch.Tensor, tiling: Tiling | None = None) -> Iterator[torch.Tensor]:
        """See `Autoencoder.decode_stream`. A size is decoded in the same way as long as the process lives and has the
        memory for it."""
        if tiling is None:
            return self._decode_whole(latents, 0)
        if any(side % self.spatial for side in (tiling.tile_height, tiling.tile_width, tiling.overlap)):
            raise ValueError(f"{tiling}: sides and overlap must be multiples of {self.spatial}")
        return self._decode_planned(latents, tiling)

    def _decode_planned(self, latents: torch.Tensor, tiling: Tiling) -> Iterator[torch.Tensor]:
        height, width = (cells * self.spatial for cells in latents.shape[2:])
        with self._planning:
            options = self._options.get((height, width, tiling))
            if options is None:
                available = min(memory.available() for memory in self._memory)
                options = self.planner.fitting(height, width, tiling, available)
                self._options[height, width, tiling] = options
            plan = options[0]
        try:
            yield from self.decode_as(latents, plan)
        except torch.OutOfMemoryError:
            with self._planning:
                if options[0] is plan and len(options) > 1:
                    del options[0]  # for the next attempt
            raise

    def decode_as(self, latents: torch.Tensor, plan: DecodePlan) -> Iterator[torch.Tensor]:
        """Decode as `decode_stream`, by a plan that `DecodePlanner.options` has made, whether or not it fits."""
        if plan.tiling is None:
            return self._decode_whole(latents, plan.device_bytes)
        return self._decode_tiles(latents, plan, plan.tiling)

    @torch.inference_mode()
    def _decode_whole(self, latents: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
        """Decode on the device with the fewest streams, which takes ``size`` bytes; 0: unknown."""
        number = min(range(len(self._memory)), key=lambda i: self._memory[i].streams)
        decoder = self._decoders[number]
        with self._memory[number].stream(size), self._here():
            caches = decoder.new_caches()
            for index in range(latents.shape[1]):
                z = self._latent_frame(latents, index, number)
                yield decoder.decode(z, caches, first=index == 0).float().clamp(-1, 1)

    @torch.inference_mode()
    def _decode_tiles(self, latents: torch.Tensor, plan: DecodePlan, tiling: Tiling) -> Iterator[torch.Tensor]:
        """Decode with ``plan.devices`` devices, which take turns; the tiles are added up in order on the first."""
        _, count, high, wide = latents.shape
        height, width = high * self.spatial, wide * self.spatial
        decoders = self._decoders[: plan.devices]
        tiles = [
            _Tile(row, column, decoders[0].device)
            for row in spans(height, tiling.tile_height, tiling.overlap)
            for column in spans(width, tiling.tile_width, tiling.overlap)
        ]
        with ExitStack() as stack:
            for memory in self._memory[: plan.devices]:
                stack.enter_context(memory.stream(plan.device_bytes))
            stack.enter_context(self._here())
            kept = [self._caches(d, len(tiles[i :: len(decoders)]), plan) for i, d in enumerate(decoders)]
            for index in range(count):
                z = [self._latent_frame(latents, index, number) for number in range(len(decoders))]
                frames = self.temporal if index else 1
                chunk = torch.zeros(3, frames, height, width, device=decoders[0].device)
                for start in range(0, len(tiles), len(decoders)):
                    turn = tiles[start : start + len(decoders)]
                    place = start // len(decoders)
                    parts = []
                    for number, tile in enumerate(turn):
                        last = start + number + len(decoders) >= len(tiles)
                        following = place + 1 if not last else 0 if index < count - 1 else None
                        caches = kept[number].take(place, following)
                        part = z[number][..., self._cells(tile.row), self._cells(tile.column)]
                        parts.append(decoders[number].decode(part, caches, first=index == 0))
                        if index < count - 1:
                            kept[number].put(place, caches)
                    for tile, pixels in zip(turn, parts, strict=True):
                        tile.blend(chunk, pixels)
                yield chunk.clamp(-1, 1)

    def _here(self) -> AbstractContextManager[None]:
        """Have the network on its device within the context."""
        return nullcontext() if self._parked is None else self._parked.here()

    def _caches(self, decoder: ChunkDecoder, tiles: int, plan: DecodePlan) -> TileCaches:
        """Return the caches of so many tiles of one device."""
        empty = [decoder.new_caches() for _ in range(tiles)]
        if plan.caches == "device":
            return DeviceCaches(empty)
        return HostCaches(empty, plan.tile.caches, self._copies(decoder.device))

    def _latent_frame(self, latents: torch.Tensor, index: int, number: int) -> torch.Tensor:
        mean, std = self._moments[number]
        return latents[:, index : index + 1].to(mean.device) * std + mean

    def _cells(self, span: TileSpan) -> slice:
        return slice(span.start // self.spatial, (span.start + span.length) // self.spatial)


def _moments(config: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of latents, ``[z_dim, 1, 1, 1]``."""
    mean, std = (torch.tensor(values, device=device) for values in (config.latents_mean, config.latents_std))
    return mean[:, None, None, None], std[:, None, None, None]


class _Tile:
    """The place of a tile in a frame, with its weights on the device that adds up the tiles, so that adding one waits
    for no copy."""

    def __init__(self, row: TileSpan, column: TileSpan, device: torch.device) -> None:
        self.row, self.column = row, column
        self._weights = row.weights.to(device)[:, None], column.weights.to(device)

    def blend(self, chunk: torch.Tensor, pixels: torch.Tensor) -> None:
        """Add ``[3, f, h, w]`` to frames ``[3, f, H, W]``, by the weights."""
        rows = slice(self.row.start, self.row.start + self.row.length)
        columns = slice(self.column.start, self.column.start + self.column.length)
        high, wide = self._weights
        chunk[..., rows, columns] += pixels.to(chunk) * (high * wide)

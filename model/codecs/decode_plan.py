"""Decide how frames of one size are decoded: whole or in tiles, and where tiles keep their caches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch

from zoetrope.model.codecs.decode_memory import TileMemory, tile_memory
from zoetrope.model.codecs.tiling import Tiling, spans

DtypeChoice = Literal["auto", "float32", "bfloat16"]
TilesChoice = Literal["auto", "never", "always"]
CachePlace = Literal["device", "host"]

GIB = 2**30
MARGIN = 1.2  # assumed: what an allocator needs beyond the tensors that are alive at a time
WORKSPACE = 1 * GIB  # assumed: of convolution libraries
UNFOLDED = 3.6  # of the working memory: PyTorch's unfolded inputs of convolutions on a CPU, as measured
CPU_LIMIT = 8 * GIB  # for frames on a CPU: fixed, so that free memory does not decide what a seed gives
MAX_ELEMENTS = 2**31 - 1  # of a tensor, in CUDA's convolutions and upsampling
NARROW = 32  # channels below which bfloat16 costs more than 5 dB and gains nothing: tensor cores take no fewer
BUFFERS = 2  # of a tile's caches on the device while its caches live on the host


@dataclass(frozen=True)
class Decoding:
    """How to decode.

    Attributes:
        dtype: of the decoder; auto: bfloat16 on a GPU, unless the network is narrow, else float32.
        tiles: auto: where a whole frame does not fit; always: wherever a job has tiles.
        devices: GPUs that share the work: tiles of a frame, or whole frames of several clips.
    """

    dtype: DtypeChoice = "auto"
    tiles: TilesChoice = "auto"
    devices: int = 1

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Decoding:
        """Read ZOETROPE_VAE_DTYPE, ZOETROPE_VAE_TILES and ZOETROPE_VAE_DEVICES. Raises ValueError if one is wrong."""

        def read(field: str, default: str) -> tuple[str, str]:
            name = f"ZOETROPE_VAE_{field}"
            return name, environment.get(name, "").strip() or default

        def word(field: str, choices: tuple[Any, ...]) -> Any:
            name, value = read(field, "auto")
            if value not in choices:
                raise ValueError(f"{name} is {value!r}, it must be one of {', '.join(choices)}")
            return value

        name, number = read("DEVICES", "1")
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(f"{name} is {number!r}, it must be a number of GPUs, at least 1")
        return cls(word("DTYPE", get_args(DtypeChoice)), word("TILES", get_args(TilesChoice)), int(number))

    def dtype_on(self, device_type: str, channels: int) -> torch.dtype:
        """Return the dtype on a kind of device (``cuda``, ``cpu``) for a decoder that ends in ``channels`` channels."""
        if self.dtype == "auto":
            return torch.bfloat16 if device_type == "cuda" and channels >= NARROW else torch.float32
        return torch.bfloat16 if self.dtype == "bfloat16" else torch.float32


@dataclass(frozen=True)
class DecodePlan:
    """One way to decode frames of one size.

    Attributes:
        tiling: None: whole frames.
        tiles: of a frame. devices: that share them.
        caches: where a tile's caches are while another tile is decoded.
        device_bytes: peak of a device, without weights. host_bytes: of caches in page-locked memory.
    """

    height: int
    width: int
    latent_bytes: int  # of a latent frame
    temporal: int
    tiling: Tiling | None
    tiles: int
    devices: int
    caches: CachePlace
    tile: TileMemory
    device_bytes: int
    host_bytes: int

    def moved_bytes(self, latent_frames: int) -> int:
        """Return the bytes that a clip of so many latent frames moves between host and device: latents up, frames of 8
        bit down, and each tile's caches down and up between two latent frames if the host keeps them."""
        frames = 1 + (latent_frames - 1) * self.temporal
        moved = latent_frames * self.latent_bytes + 3 * frames * self.height * self.width
        if self.caches == "host" and latent_frames > 1:
            moved += 2 * self.tiles * (self.tile.first_caches + (latent_frames - 2) * self.tile.caches)
        return moved


class DecodePlanner:
    """Makes the plans of one autoencoder on one kind of device."""

    def __init__(self, config: Mapping[str, Any], device_type: str, decoding: Decoding) -> None:
        """
        Args:
            config: configuration of an AutoencoderKLWan, with all fields. device_type: ``cuda`` or ``cpu``.
        """
        self.config, self._device_type, self.decoding = config, device_type, decoding

    @cached_property
    def dtype(self) -> torch.dtype:
        width = self.config.get("decoder_base_dim") or self.config["base_dim"]
        return self.decoding.dtype_on(self._device_type, width * self.config["dim_mult"][0])

    def fitting(self, height: int, width: int, tiling: Tiling | None, available: int) -> list[DecodePlan]:
        """Return those of `options` that fit; the last one if none does.

        Args:
            available: bytes free on each device, without what the weights take.
        """
        options = self.options(height, width, tiling)
        return [option for option in options if option.device_bytes <= available] or options[-1:]

    def options(self, height: int, width: int, tiling: Tiling | None) -> list[DecodePlan]:
        """Return all ways to decode frames of ``height x width`` pixels that the settings allow, best first.

        Args:
            tiling: of the job; None: its frames are decoded whole, whatever they need.

        Raises:
            ValueError: a side is no multiple of the autoencoder's scale.
        """
        choice = self.decoding.tiles
        whole = [] if tiling is not None and choice == "always" else [self._whole(height, width)]
        if tiling is None or choice == "never":
            return whole
        places: tuple[CachePlace, ...] = ("device",) if self._device_type == "cpu" else ("device", "host")
        tiled = [self._tiled(height, width, tiling, place) for place in places]
        return [plan for plan in whole if plan.tile.elements <= MAX_ELEMENTS] + tiled

    def _whole(self, height: int, width: int) -> DecodePlan:
        tile = tile_memory(self.config, height, width, self.dtype)
        return self._plan(height, width, None, 1, 1, "device", tile, self._peak(tile), 0)

    def _tiled(self, height: int, width: int, tiling: Tiling, place: CachePlace) -> DecodePlan:
        rows = spans(height, tiling.tile_height, tiling.overlap)
        columns = spans(width, tiling.tile_width, tiling.overlap)
        tiles = len(rows) * len(columns)
        devices = min(self.decoding.devices, tiles)
        tile = tile_memory(self.config, rows[0].length, columns[0].length, self.dtype)
        others = BUFFERS if place == "host" else -(-tiles // devices) - 1
        blended = 3 * self._temporal * height * width * 4
        peak = self._peak(tile) + others * tile.caches + blended
        held = tiles * tile.caches if place == "host" else 0
        return self._plan(height, width, tiling, tiles, devices, place, tile, peak, held)

    def _plan(
        self, height: int, width: int, tiling: Tiling | None, tiles: int, devices: int, place: CachePlace,
        tile: TileMemory, device: int, host: int,
    ) -> DecodePlan:  # fmt: skip
        spatial = self.config["scale_factor_spatial"]
        latents = 4 * self.config["z_dim"] * (height // spatial) * (width // spatial)
        return DecodePlan(height, width, latents, self._temporal, tiling, tiles, devices, place, tile, device, host)

    @property
    def _temporal(self) -> int:
        return int(self.config["scale_factor_temporal"])

    def _peak(self, tile: TileMemory) -> int:
        if self._device_type == "cpu":
            return int((1 + UNFOLDED) * tile.working)
        return int(MARGIN * tile.working) + WORKSPACE

"""Plans how the decoder turns a clip into frames: memory, and bytes between host and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoetrope.cluster.planning.gang_plan import GangPlan
from zoetrope.model.catalog.checkpoint_layout import read_autoencoder
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.checkpoints.original import public_autoencoder
from zoetrope.model.codecs.decode_memory import empty_network
from zoetrope.model.codecs.decode_plan import CPU_LIMIT, DecodePlan, DecodePlanner, Decoding
from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder
from zoetrope.model.codecs.tiling import Tiling
from zoetrope.model.families.family import Preset
from zoetrope.model.request.tasks import ModelCard
from zoetrope.model.request.tiles import tiles_for


@dataclass(frozen=True)
class ClipDecode:
    """One way to decode the clips of a plan.

    Attributes:
        tiles: of a frame; 1: whole frames. tile_width, tile_height: in pixels.
        caches: ``device`` or ``host``: where a tile's caches are while another tile is decoded.
        device_bytes: peak of the device, with the decoder's weights. host_bytes: of page-locked memory.
        moved_bytes: between host and device, by a clip.
        fits: beside the rank that has the device too, as planned. chosen: the decoder would do so.
    """

    dtype: str
    tiles: int
    tile_width: int
    tile_height: int
    caches: str
    device_bytes: int
    host_bytes: int
    moved_bytes: int
    fits: bool
    chosen: bool


def clip_decodes(model: Preset | ModelCard, plan: GangPlan, decoding: Decoding) -> list[ClipDecode]:
    """Return the ways to decode the clips of a plan, best first, by the decoder's own rules; none for an autoencoder
    that is not Wan's.

    Raises:
        ModelError: the folder of the model cannot be used.
    """
    config = _config(model)
    if config is None:
        return []
    planner = DecodePlanner(empty_network(config).config, "cuda" if plan.is_gpu else "cpu", decoding)
    tiles = tiles_for(plan.width, plan.height)
    options = planner.options(plan.height, plan.width, None if tiles is None else Tiling(*tiles))
    free = plan.memory.available - plan.memory.total if plan.is_gpu else CPU_LIMIT
    chosen = next((option for option in options if _fits(option, free)), options[-1])
    return [
        ClipDecode(
            dtype=str(planner.dtype).removeprefix("torch."),
            tiles=option.tiles,
            tile_width=option.tiling.tile_width if option.tiling else plan.width,
            tile_height=option.tiling.tile_height if option.tiling else plan.height,
            caches=option.caches,
            device_bytes=option.device_bytes + option.tile.weights,
            host_bytes=option.host_bytes,
            moved_bytes=option.moved_bytes(1 + (plan.frames - 1) // option.temporal) if plan.is_gpu else 0,
            fits=_fits(option, free),
            chosen=option is chosen,
        )
        for option in options
    ]


def _fits(option: DecodePlan, free: int) -> bool:
    return option.device_bytes + option.tile.weights <= free


def _config(model: Preset | ModelCard) -> Mapping[str, Any] | None:
    if isinstance(model, Preset):
        return public_autoencoder(model.vae.z_dim)
    part = read_autoencoder(source_of(model))
    if part.class_name == LinearAutoencoder.CLASS_NAME:
        return None
    return public_autoencoder(part.config["z_dim"]) if part.original else part.config

"""Wan2.1 image to video and first/last frame: a mask and the given frames are concatenated to the latents as channels.

The network also attends to CLIP tokens of one picture, or of two with learned positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.families.family import Contents, Preset
from zoetrope.model.families.wan import SAMPLING, WAN21_VAE, takes_channels, wan_14b, wan_family

_CLIP: dict[str, object] = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
_720P_SHIFT = 4.0  # the least shift in a scheduler's file that means 720p: it is 3 at 480p and 5 at 720p

I2V_480P = Preset(
    "wan2.1-i2v-14b-480p",
    "Wan-AI/Wan2.1-I2V-14B-480P",
    wan_14b(**_CLIP),
    WAN21_VAE,
    replace(SAMPLING, steps=40, shift=3.0),
    words=("480p",),
)
I2V_720P = Preset(
    "wan2.1-i2v-14b-720p",
    "Wan-AI/Wan2.1-I2V-14B-720P",
    wan_14b(**_CLIP),
    WAN21_VAE,
    replace(SAMPLING, steps=40, size="720p"),
    words=("720p",),
)
FLF2V = Preset(
    "wan2.1-flf2v-14b",
    "Wan-AI/Wan2.1-FLF2V-14B-720P",
    wan_14b(**_CLIP, pos_embed_seq_len=514),
    WAN21_VAE,
    replace(SAMPLING, shift=16.0, size="720p"),
)


def frame_tasks(config: TransformerConfig) -> tuple[str, ...]:
    """Return the tasks: with CLIP tokens a network was trained with one picture or with two, without them with both."""
    if config.image_dim is None:
        return ("image_to_video", "first_last_frame")
    return ("image_to_video",) if config.pos_embed_seq_len is None else ("first_last_frame",)


def _by_shift(presets: Sequence[Preset], contents: Contents) -> Sequence[Preset]:
    """Distinguish 480p from 720p, which differ only in their weights and the scheduler's shift."""
    if contents.shift is None or list(presets) != [I2V_480P, I2V_720P]:
        return presets
    return (I2V_480P,) if contents.shift < _720P_SHIFT else (I2V_720P,)


WAN21_I2V = wan_family(
    name="wan2.1-i2v",
    presets=(I2V_480P, I2V_720P, FLF2V),
    matches=takes_channels,
    pipelines=("WanImageToVideoPipeline",),
    conditioner="channels",
    load_conditioner="zoetrope.model.conditioning.channels:load",
    tasks=frame_tasks,
    overlap_frames=1,
    narrow=_by_shift,
)

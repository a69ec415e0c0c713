"""Wan2.2 TI2V 5B: text or image to video; the first latent frame is known and clean at every step."""

from __future__ import annotations

from dataclasses import replace

from zoetrope.model.families.family import Contents, Preset
from zoetrope.model.families.wan import SAMPLING, WAN22_VAE, takes_channels, wan_config, wan_family

TI2V_5B = Preset(
    "wan2.2-ti2v-5b",
    "Wan-AI/Wan2.2-TI2V-5B",
    wan_config(3072, 30, 14336, in_channels=48, out_channels=48),
    WAN22_VAE,
    replace(SAMPLING, fps=24, frames=121, size="720p", trained_sizes=((1280, 704), (704, 1280))),
)


def _has_levels_per_token(contents: Contents) -> bool:
    return contents.expand_timesteps and not contents.config.vace_layers and not takes_channels(contents)


WAN22_TI2V = wan_family(
    name="wan2.2-ti2v",
    presets=(TI2V_5B,),
    matches=_has_levels_per_token,
    pipelines=("WanPipeline", "WanImageToVideoPipeline", "WanDMDPipeline"),
    conditioner="first_latent",
    load_conditioner="zoetrope.model.conditioning.first_latent:load",
    tasks=lambda config: ("text_to_video", "image_to_video"),
    overlap_frames=1,
    ends_with_frame=False,
)

"""Wan2.1 text to video: the network takes latents and text only."""

from __future__ import annotations

from zoetrope.model.families.family import Preset
from zoetrope.model.families.wan import SAMPLING, WAN21_VAE, takes_latents_alone, wan_1b, wan_14b, wan_family

WAN21_T2V = wan_family(
    name="wan2.1-t2v",
    presets=(
        Preset("wan2.1-t2v-14b", "Wan-AI/Wan2.1-T2V-14B", wan_14b(), WAN21_VAE, SAMPLING),
        Preset("wan2.1-t2v-1.3b", "Wan-AI/Wan2.1-T2V-1.3B", wan_1b(), WAN21_VAE, SAMPLING),
    ),
    matches=takes_latents_alone,
    pipelines=("WanPipeline", "WanVideoToVideoPipeline", "WanDMDPipeline"),  # the others have the same components
    conditioner="streams",
    load_conditioner="zoetrope.model.conditioning.streams:load",
    tasks=lambda config: ("text_to_video",),
    overlap_frames=5,
)

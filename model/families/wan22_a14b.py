"""Wan2.2 A14B: two noise experts; text to video as in Wan2.1, image to video by channels without CLIP."""

from __future__ import annotations

from dataclasses import replace

from zoetrope.model.families.family import Preset
from zoetrope.model.families.wan import SAMPLING, WAN21_VAE, wan_14b
from zoetrope.model.families.wan21_i2v import WAN21_I2V
from zoetrope.model.families.wan21_t2v import WAN21_T2V

WAN22_T2V = replace(
    WAN21_T2V,
    name="wan2.2-t2v",
    presets=(
        Preset(
            "wan2.2-t2v-a14b",
            "Wan-AI/Wan2.2-T2V-A14B",
            wan_14b(),
            WAN21_VAE,
            replace(SAMPLING, steps=40, shift=12.0, guidance=4.0, guidance_low=3.0, boundary=0.875),
            transformers=2,
        ),
    ),
)
WAN22_I2V = replace(
    WAN21_I2V,
    name="wan2.2-i2v",
    presets=(
        Preset(
            "wan2.2-i2v-a14b",
            "Wan-AI/Wan2.2-I2V-A14B",
            wan_14b(in_channels=36),
            WAN21_VAE,
            replace(SAMPLING, steps=40, guidance=3.5, guidance_low=3.5, boundary=0.9),
            transformers=2,
        ),
    ),
)

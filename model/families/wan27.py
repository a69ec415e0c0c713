"""Wan2.7, token-routed: no such weights are public; these are ours, derived from public ones by `zoetrope upcycle`."""

from __future__ import annotations

from dataclasses import replace

from zoetrope.model.families.family import Preset, Upcycling
from zoetrope.model.families.wan import SAMPLING, WAN21_VAE, upcycled, wan_14b
from zoetrope.model.families.wan21_t2v import WAN21_T2V
from zoetrope.model.families.wan22_ti2v import TI2V_5B, WAN22_TI2V

_FROM_5B = Upcycling(TI2V_5B.name, slices=8, replicas=10, dense_ends=1)
_FROM_14B = Upcycling("wan2.1-t2v-14b", slices=12, replicas=4, dense_ends=5)

WAN27 = replace(
    WAN22_TI2V,
    name="wan2.7",
    presets=(
        Preset(
            "wan2.7-27b",
            _FROM_5B.base,
            upcycled(TI2V_5B.config, _FROM_5B),
            TI2V_5B.vae,
            TI2V_5B.sampling,
            upcycling=_FROM_5B,
        ),
    ),
)
WAN27_WIDE = replace(
    WAN21_T2V,
    name="wan2.7-wide",
    presets=(
        Preset(
            "wan2.7-27b-wide",
            _FROM_14B.base,
            upcycled(wan_14b(), _FROM_14B),
            WAN21_VAE,
            SAMPLING,
            upcycling=_FROM_14B,
        ),
    ),
)

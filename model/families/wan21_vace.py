"""Wan2.1 VACE (2503.07598): a second stack of blocks reads a control video and adds hints; all tasks."""

from __future__ import annotations

from dataclasses import replace

from zoetrope.model.families.family import Preset
from zoetrope.model.families.wan import SAMPLING, WAN21_VAE, wan_1b, wan_14b, wan_family
from zoetrope.model.request.kinds import TASK_KINDS

_SAMPLING = replace(SAMPLING, shift=16.0)

WAN21_VACE = wan_family(
    name="wan2.1-vace",
    presets=(
        Preset(
            "wan2.1-vace-14b",
            "Wan-AI/Wan2.1-VACE-14B",
            wan_14b(vace_layers=tuple(range(0, 40, 5))),
            WAN21_VAE,
            _SAMPLING,
        ),
        Preset(
            "wan2.1-vace-1.3b",
            "Wan-AI/Wan2.1-VACE-1.3B",
            wan_1b(vace_layers=tuple(range(0, 30, 2))),
            WAN21_VAE,
            _SAMPLING,
        ),
    ),
    matches=lambda contents: bool(contents.config.vace_layers),
    pipelines=("WanVACEPipeline",),
    conditioner="vace",
    load_conditioner="zoetrope.model.conditioning.vace:load",
    tasks=lambda config: TASK_KINDS,
    overlap_frames=5,
    reference_clips=False,
    leading_frames=True,
)

"""Bernini-R (ByteDance/Bernini-R-Diffusers): source clips and pictures are streams of their own in front of the target.

Its folders have diffusers' components but no index: a ``config.json`` names the renderer, which distinguishes it from
Wan2.2-T2V-A14B, whose networks have the same configuration.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zoetrope.model.families.family import OwnIndex, Preset
from zoetrope.model.families.index import Index
from zoetrope.model.families.wan import SAMPLING, WAN21_VAE, takes_latents_alone, wan_1b, wan_14b, wan_family
from zoetrope.model.inspection.files import ModelError, read_json

RENDERER = "bernini_renderer"
PIPELINE = "BerniniRendererPipeline"
_SAMPLING = replace(SAMPLING, steps=40, shift=3.0, guidance=4.0)


def _read_index(path: Path) -> Index:
    """Read Bernini-R's ``config.json``.

    Raises:
        ModelError: it asks for a mode that is not supported, or there is no transformer folder.
    """
    value = read_json(path)
    for key, wanted in (("use_src_id_rotary_emb", True), ("use_unipc", True), ("skip_transformer_1", False)):
        if value.get(key, wanted) is not wanted:
            raise ModelError(
                f"{path}: {key} is {value[key]!r}, expected {wanted}: no other mode of Bernini-R is supported"
            )
    folder = path.parent / "transformer"
    if not folder.is_dir():
        raise ModelError(f"{folder}: the directory is missing, Bernini-R is read in diffusers' layout")
    second = None if value.get("skip_transformer_2") else "WanTransformer3DModel"
    components = {
        "transformer": "WanTransformer3DModel",
        "transformer_2": second,
        "vae": "AutoencoderKLWan",
        "text_encoder": "UMT5EncoderModel",
        "tokenizer": "T5Tokenizer",
        "scheduler": "UniPCMultistepScheduler",
    }
    return Index(path, PIPELINE, components, value.get("switch_dit_boundary") if second else None)


BERNINI_R = wan_family(
    name="bernini-r",
    presets=(
        Preset(
            "bernini-r",
            "ByteDance/Bernini-R-Diffusers",
            wan_14b(),
            WAN21_VAE,
            replace(_SAMPLING, boundary=0.875),
            transformers=2,
            words=("bernini",),
        ),
        Preset(
            "bernini-r-1.3b",
            "ByteDance/Bernini-R-1.3B-Diffusers",
            wan_1b(),
            WAN21_VAE,
            _SAMPLING,
            words=("bernini",),
        ),
    ),
    matches=takes_latents_alone,
    pipelines=(PIPELINE,),
    own_index=OwnIndex(RENDERER, "Bernini-R", _read_index),
    conditioner="bernini",
    load_conditioner="zoetrope.model.conditioning.bernini:load",
    tasks=lambda config: ("text_to_video", "grid_to_video", "reference_to_video", "edit_video"),
    overlap_frames=5,
    ends_with_frame=False,
    starts_with_frame=False,
)

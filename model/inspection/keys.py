"""Compare the tensors of a network with those in files: missing, of another shape, or without a place. Needs no torch.

Tensors without a place are accepted with a warning, as in diffusers, unless they would change the result.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.shown import shown

# Tables that exporters write and nothing reads; diffusers skips norm_added_q as well.
IGNORED = re.compile(r"(^|\.)(rope|freqs|norm_added_q|position_ids)(\.|$)")
LAYER = re.compile(r"^((?:.*?\.)?(?:blocks|block|vace_blocks|layers))\.(\d+)\.")
# Keys of features that are not supported, or not by this configuration, with a description.
FEATURES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), what)
    for pattern, what in (
        (
            r"(^|[._])(lora|lokr|loha|hada|dora|oft|glora|adapters?|ip_adapter)([._]|$)|lora_|_lora"
            r"|\.(alpha|diff|diff_b|diff_m|base_layer)(\.|$)",
            "of a LoRA or another adapter, which is not applied",
        ),
        (
            r"scaled_fp8|scale_weight|weight_scale|input_scale|scale_input|(^|\.)scb$|absmax|quant_map|quant_state"
            r"|bitsandbytes|qweight|qzeros|qdata|zero_point|_quantizer|comfy_quant|(^|\.)scales?$",
            "of quantised weights, which are not supported",
        ),
        (
            r"img_emb|image_embedder|add_[kqv]_proj|norm_added_k|(^|[._])[kv]_img|norm_k_img",
            "of pictures' CLIP tokens, which its image_dim would announce",
        ),
        (r"to_gate_compress", "of sparse attention (VSA), which is not supported; take a variant with full attention"),
        (r"(^|\.)proj_l(\.|$)", "of sparse-linear attention (SLA), which is not supported"),
        (r"time_r_|(^|[._])r_embedder|time_embedder_r", "of a second time input (MeanFlow), which is not supported"),
        (r"(^|\.)vace_", "of VACE, which its vace_layers would announce"),
        (
            r"motion|face_|pose_|audio|camera|control|ref_conv|frame_packer|cond_encoder|cond_mask|fps_|guidance_emb"
            r"|delta_embedder|dwpose|randomref|injector|cross_view|memory",
            "of another network",
        ),
    )
)


class Described(Protocol):
    """A tensor in a file."""

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, ...]: ...


def check_tensors(wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, Described], where: Path) -> list[str]:
    """Compare names and shapes of a network's tensors with those in files.

    Args:
        where: the file or directory to name in errors.

    Returns:
        Names without a place in the network that may be ignored.

    Raises:
        ModelError: the number of layers differs, or a tensor is missing, has another shape, or has no place and would
            change the result.
    """
    left_over = check_names(wanted, stored, where)
    for name, shape in wanted.items():
        tensor = stored[name]
        if tensor.shape != shape:
            raise ModelError(
                f"{tensor.path}: {name} has shape {tensor.shape}, expected {shape} by the configuration in {where}"
            )
    return left_over


def check_names(wanted: Collection[str], stored: Collection[str], where: Path) -> list[str]:
    """Compare names alone; see `check_tensors`."""
    known = set(wanted)
    held = {name for name in stored if name in known or not IGNORED.search(name)}
    missing, unknown = sorted(known - held), sorted(held - known)
    ours, theirs = layer_counts(known), layer_counts(held)
    for prefix in sorted(ours.keys() & theirs.keys()):
        if ours[prefix] != theirs[prefix]:
            raise ModelError(
                f"{where}: the configuration says {ours[prefix]} {shown(prefix)} and the weights hold {theirs[prefix]} "
                f"({'without' if missing else 'with'} {shown((missing or unknown)[0])})"
            )
    for name in unknown:
        if (what := _feature(name)) is not None:
            raise ModelError(
                f"{where}: the weights hold {shown(name)} that the configuration has no place for: it is {what}"
            )
    if missing:
        raise ModelError(f"{where}: the weights lack {first_of(missing)}")
    modules = {name.partition(".")[0] for name in known if "." in name}
    if inside := [name for name in unknown if name.partition(".")[0] in modules]:
        raise ModelError(f"{where}: the weights hold {first_of(inside)} that the configuration has no place for")
    return unknown


def layer_counts(names: Collection[str]) -> dict[str, int]:
    """Count the layers in the names of a state dict: ``{"blocks": 30}``."""
    found: dict[str, set[int]] = {}
    for name in names:
        if match := LAYER.match(name):
            found.setdefault(match[1], set()).add(int(match[2]))
    return {prefix: len(layers) for prefix, layers in found.items()}


def first_of(names: list[str]) -> str:
    """Name one key and count the others."""
    return shown(names[0]) if len(names) == 1 else f"{shown(names[0])} and {len(names) - 1} more keys"


def _feature(name: str) -> str | None:
    return next((what for pattern, what in FEATURES if pattern.search(name)), None)

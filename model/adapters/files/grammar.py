"""Read the names of tensors in adapter files: a prefix, a module, and the part of the change. Needs no torch.

Every trainer and converter has a style of its own; `PREFIXES` and `PARTS` hold those in use. What would change the
arithmetic, or needs other inputs than a prompt and pictures, is refused by name in `REFUSED`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.shown import shown

Side = Literal["any", "high", "low"]  # of two noise experts; any: the file's name or the caller says

# Prefix, the noise expert that it names, and whether an underscored module follows; stripped until none is left.
_PREFIXES: tuple[tuple[str, Side, bool], ...] = (
    ("diffusion_model.transformer_1.", "high", False),  # ai-toolkit, both experts in one file
    ("diffusion_model.transformer_2.", "low", False),
    ("model.diffusion_model.", "any", False),
    ("diffusion.model.", "any", False),
    ("diffusion_model.", "any", False),  # ComfyUI, diffusion-pipe, ai-toolkit, lightx2v, Lightning
    ("base_model.model.", "any", False),  # PEFT's save_pretrained
    ("transformer_2.", "low", False),  # diffusers, the second network
    ("transformer.", "any", False),  # diffusers
    ("lora_unet__", "any", True),  # VideoX-Fun, whose root module has an empty name
    ("lora_unet_", "any", True),  # kohya, musubi-tuner
    ("lycoris_", "any", True),  # LyCORIS
    ("pipe.dit.", "any", False),  # DiffSynth
    ("model.", "any", False),
)
PREFIXES = tuple(sorted(_PREFIXES, key=lambda prefix: -len(prefix[0])))

# Suffix and the part that it means, see `PlannedPatch`.
_PARTS = {
    **{f".lora_{part.upper()}{end}": part for part in "ab" for end in (".weight", ".default.weight", "")},
    **{
        f"{stem}{way}.weight": part
        for part, way in (("a", "down"), ("b", "up"))
        for stem in (".lora_", ".lora.", "_lora.", ".lora_linear_layer.")
    },
    ".lora_B.bias": "bias",
    ".lora_B.default.bias": "bias",
    ".alpha": "alpha",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".diff_m": "diff_m",
    **{f".hada_w{n}_{x}": f"hada_w{n}{x}" for n in "12" for x in "ab"},
    **{f".lokr_w{n}{x and '_'}{x}": f"lokr_w{n}{x}" for n in "12" for x in ("", "a", "b")},
}
PARTS = tuple(sorted(_PARTS.items(), key=lambda part: -len(part[0])))

REFUSED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r"^(lora_te\d*_|text_encoder(_\d)?\.)", "of a text encoder's LoRA, which is not applied"),
        (r"\.(dora_scale|lora_magnitude_vector)(\.|$)", "of DoRA, which also scales whole rows of the weights"),
        (r"\.lora_mid\.", "of a LoRA with a third factor (lora_mid)"),
        (r"\.(hada_t[12]|lokr_t[12])$", "of a convolution's CP form, which is not applied"),
        (r"\.oft_(blocks|diag)$|\.oft_R\.", "of OFT, which turns weights instead of adding to them"),
        (r"\.(a1|a2|b1|b2)(\.weight)?$", "of GLoRA, which multiplies weights instead of adding to them"),
        (r"\.(w_norm|b_norm)$", "of a norm that LyCORIS trained, which is not applied"),
        (r"\.(set_weight|reshape_weight)$", "of a weight that is replaced or reshaped, which is not applied"),
        (r"(^|\.)[qkv]_loras\.", "of Stand-In, which needs the picture of a face as another input"),
        (r"dwpose_embedding|randomref_embedding", "of UniAnimate, which needs poses as another input"),
        (r"\.(modules_to_save|base_layer|original_module)\.", "of a whole layer that PEFT saved, which is not applied"),
        (r"(^|\.)(scaled_fp8|comfy_quant|.*(scale_weight|weight_scale|scale_input))$", "of quantised weights"),
    )
)


@dataclass(frozen=True)
class AdapterKey:
    """A tensor's name, taken apart.

    Attributes:
        key: the whole name. module: as the file calls it. underscored: with underscores for dots.
        part: a value of `PARTS`. peft: it has PEFT's own prefix.
    """

    key: str
    side: Side
    module: str
    underscored: bool
    part: str
    peft: bool = False


def parse_key(path: Path, key: str) -> AdapterKey:
    """Take a tensor's name apart.

    Raises:
        ModelError: it is of a kind that is refused, or no known part of an adapter.
    """
    for pattern, what in REFUSED:
        if pattern.search(key):
            raise ModelError(f"{path}: {shown(key)} is {what}")
    rest, side, underscored, peft = key, "any", False, False
    while (found := next((prefix for prefix in PREFIXES if rest.startswith(prefix[0])), None)) is not None:
        rest = rest.removeprefix(found[0])
        side = found[1] if side == "any" else side
        underscored, peft = found[2], peft or found[0] == "base_model.model."
        if underscored:
            break
    if rest != key and any(pattern.search(rest) for pattern, _ in REFUSED[:1]):
        raise ModelError(f"{path}: {shown(key)} is {REFUSED[0][1]}")
    dotted = f".{rest}"  # a part may stand alone: diff_m of the network's own modulation
    for suffix, part in PARTS:
        if dotted.endswith(suffix):
            module = dotted.removesuffix(suffix).removeprefix(".")
            module = module.replace(".", "_") if underscored else module
            return AdapterKey(key, _side(side), module, underscored, part, peft)
    raise ModelError(f"{path}: {shown(key)} is no known part of an adapter")


def _side(text: str) -> Side:
    return "high" if text == "high" else "low" if text == "low" else "any"

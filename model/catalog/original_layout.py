"""Read the layout of Wan's own releases: ``config.json``, ``models_t5_*.pth``, ``Wan2.x_VAE.pth``. Needs no torch.

Wan2.2's pairs are in ``high_noise_model`` and ``low_noise_model``. Configurations get diffusers' field names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoetrope.model.families.config import MAX_LAYERS
from zoetrope.model.inspection.files import ModelError, check_is_content, read_json, weight_files
from zoetrope.model.inspection.headers import read_headers
from zoetrope.model.request.schema_errors import short

ORIGINAL_CLASSES = ("WanModel", "VaceWanModel")
ORIGINAL_PAIR = ("high_noise_model", "low_noise_model")
MODEL_TYPES = ("t2v", "i2v", "flf2v", "vace", "ti2v")
FLF_IMAGE_TOKENS = 514  # CLIP tokens of a first and a last frame
CLIP_STEM = "models_clip_open-clip-xlm-roberta-large-vit-huge-14"
TEXT_STEM = "models_t5_umt5-xxl-enc-bf16"
KEYS = ("model_type", "dim", "num_heads", "num_layers", "ffn_dim", "in_dim", "out_dim")


def is_original(root: Path) -> bool:
    """Tell whether a directory has the layout of Wan's own releases."""
    if (root / "model_index.json").exists():
        return False
    if (root / ORIGINAL_PAIR[0]).is_dir():
        return True
    config = root / "config.json"
    return config.exists() and read_json(config).get("_class_name") in ORIGINAL_CLASSES


def read_original(directory: Path, paired: bool) -> dict[str, Any]:
    """Read the configuration of a transformer, or of one of a pair, with diffusers' field names.

    Raises:
        ModelError: it is missing, lacks a key, or describes another network.
    """
    path = directory / "config.json"
    raw = read_json(path)
    if raw.get("_class_name") not in ORIGINAL_CLASSES:
        expected = ", ".join(ORIGINAL_CLASSES)
        raise ModelError(f"{path}: _class_name is {raw.get('_class_name')!r}, expected one of {expected}")
    for key in KEYS:
        if key not in raw:
            raise ModelError(f"{path}: {key} is missing")
        if key != "model_type" and (type(raw[key]) is not int or raw[key] < 1):
            raise ModelError(f"{path}: {key} is {raw[key]!r}, expected a whole number above 0")
    if raw["num_layers"] > MAX_LAYERS:
        raise ModelError(f"{path}: num_layers is {short(raw['num_layers'])}, at most {MAX_LAYERS} are supported")
    if raw["model_type"] not in MODEL_TYPES:
        raise ModelError(f"{path}: model_type is {raw['model_type']!r}, expected one of {', '.join(MODEL_TYPES)}")
    return _diffusers_config(raw, _has_image_tokens(raw, directory, paired))


def original_files(directory: Path) -> list[Path]:
    """Find the weights: files with diffusers' names, as released, or ``.pth`` files beside the configuration.

    Raises:
        ModelError: there are none, or the index names a missing one.
    """
    others = [p for p in sorted(directory.glob("*.pth")) if not p.name.startswith(("models_", "Wan2."))]
    try:
        return weight_files(directory)
    except ModelError:
        if not others:
            raise
        return others


def one_of(root: Path, stem: str) -> list[Path]:
    """Find ``STEM.safetensors`` or ``STEM.pth``. Raises ModelError if neither exists."""
    for suffix in (".safetensors", ".pth"):
        if (root / (stem + suffix)).is_file():
            return [root / (stem + suffix)]
    check_is_content(root / (stem + ".pth"))
    raise ModelError(f"{root / (stem + '.pth')}: is not a file")


def _diffusers_config(raw: dict[str, Any], image_tokens: bool) -> dict[str, Any]:
    dim, heads = raw["dim"], raw["num_heads"]
    vace = raw["model_type"] == "vace"
    config: dict[str, Any] = {
        "_class_name": "WanVACETransformer3DModel" if vace else "WanTransformer3DModel",
        "model_type": raw["model_type"],
        "num_attention_heads": heads,
        "attention_head_dim": dim // heads,
        "in_channels": raw["in_dim"],
        "out_channels": raw["out_dim"],
        "text_dim": raw.get("text_dim", 4096),
        "freq_dim": raw.get("freq_dim", 256),
        "ffn_dim": raw["ffn_dim"],
        "num_layers": raw["num_layers"],
        "eps": raw.get("eps", 1e-6),
        "patch_size": raw.get("patch_size", [1, 2, 2]),
        "cross_attn_norm": raw.get("cross_attn_norm", True),
    }
    if vace:
        every = (
            5 if raw["num_layers"] == 40 else 2
        )  # as in the two public models; not all their configurations have the key
        config["vace_layers"] = raw.get("vace_layers") or list(range(0, raw["num_layers"], every))
        config["vace_in_channels"] = raw.get("vace_in_dim", 96)
    if image_tokens:
        config |= {"image_dim": raw.get("image_dim", 1280), "added_kv_proj_dim": dim}
        if raw["model_type"] == "flf2v":
            config["pos_embed_seq_len"] = FLF_IMAGE_TOKENS
    return config


def _has_image_tokens(raw: dict[str, Any], directory: Path, paired: bool) -> bool:
    """Tell by the weights whether the network takes CLIP tokens: Wan2.1's ``i2v`` does, Wan2.2's pairs do not."""
    if raw["model_type"] not in ("i2v", "flf2v"):
        return False
    try:
        files = original_files(directory)
    except ModelError:  # a gateway has no weights; they are checked where the model runs
        return not paired
    return any(header.name.startswith("img_emb.") for path in files for header in read_headers(path))

"""A checkpoint directory in either layout: where each component's configuration and weights are. Needs no torch.

Layouts: diffusers' (``model_index.json`` and a folder for each component), and that of Wan's own releases
(``config.json`` of a WanModel, ``models_t5_*.pth``, ``Wan2.x_VAE.pth``; Wan2.2's pairs in ``high_noise_model`` and
``low_noise_model``). The configuration of either comes out in diffusers' words.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

TRANSFORMER_CLASSES = ("WanTransformer3DModel", "WanVACETransformer3DModel", "ZoetropeTransformer3DModel")
ORIGINAL_CLASSES = ("WanModel", "VaceWanModel")
ORIGINAL_PAIR = ("high_noise_model", "low_noise_model")
MODEL_TYPES = ("t2v", "i2v", "flf2v", "vace", "ti2v")
DIFFUSERS_STEM = "diffusion_pytorch_model"
AUTOENCODER_CLASSES = ("AutoencoderKLWan", "LinearVideoAutoencoder")
COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
FLF_IMAGE_TOKENS = 514  # CLIP tokens of a first and a last frame
RANDOM_NAME = "random_weights.json"


class ModelError(Exception):
    """A model cannot be used: unknown, incomplete or of another family. The message says which file or key and why."""


class RandomWeights(BaseModel):
    """What `RANDOM_NAME` holds, in the place of a transformer's weights: they are drawn when it is loaded (see
    `model.random_weights`). Such a model is as large and as slow as a real one and its clips are noise."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    seed: int = Field(ge=0, lt=2**63)
    std: float = Field(gt=0, allow_inf_nan=False)


@dataclass(frozen=True)
class Component:
    """One network of a checkpoint. ``config`` uses diffusers' names; empty where the weights alone tell the shape.
    ``random``: it has no files of weights, they are to be drawn."""

    directory: Path
    config: dict[str, Any]
    original: bool
    find_files: Callable[[Path], list[Path]]
    random: RandomWeights | None = None

    @property
    def files(self) -> list[Path]:
        """Of the weights; none where they are random. Raises ModelError when one is missing; a gateway, which has none,
        never asks."""
        return self.find_files(self.directory) if self.random is None else []

    @property
    def class_name(self) -> str:
        return str(self.config.get("_class_name"))


def is_original(root: Path) -> bool:
    """Whether a directory has the layout of Wan's own releases."""
    if (root / "model_index.json").exists():
        return False
    if (root / ORIGINAL_PAIR[0]).is_dir():
        return True
    config = root / "config.json"
    return config.exists() and read_json(config).get("_class_name") in ORIGINAL_CLASSES


def read_transformers(root: Path) -> tuple[Component, ...]:
    """The transformer, or the two noise experts, the one for high noise first.

    Raises:
        ModelError: a file is missing or unreadable, or the class is not one we run.
    """
    if is_original(root):
        if (root / ORIGINAL_PAIR[0]).is_dir():
            return tuple(_original_transformer(root / name, paired=True) for name in ORIGINAL_PAIR)
        return (_original_transformer(root, paired=False),)
    names = ["transformer"]
    if (root / "transformer_2").is_dir():
        names.append("transformer_2")
    return tuple(_diffusers_transformer(root / name) for name in names)


def read_autoencoder(root: Path) -> Component:
    """Raises ModelError as `read_transformers`."""
    if is_original(root):
        wan22 = any(root.glob("Wan2.2_VAE.*"))
        find = partial(_one_of, stem="Wan2.2_VAE" if wan22 else "Wan2.1_VAE")
        config = {"_class_name": "AutoencoderKLWan", "z_dim": 48 if wan22 else 16}
        config |= {"scale_factor_spatial": 16 if wan22 else 8, "scale_factor_temporal": 4}
        return Component(root, config, True, find)
    directory = root / "vae"
    config = read_json(directory / "config.json")
    _check_class(directory / "config.json", config, AUTOENCODER_CLASSES)
    return Component(directory, config, False, weight_files)


def read_text_encoder(root: Path) -> Component:
    """UMT5's encoder. Raises ModelError as `read_transformers`."""
    if is_original(root):
        return Component(root, {}, True, partial(_one_of, stem="models_t5_umt5-xxl-enc-bf16"))
    directory = root / "text_encoder"
    config = read_json(directory / "config.json")
    return Component(directory, config, False, partial(weight_files, stem="model", pickle_stem="pytorch_model"))


def image_encoder_files(root: Path) -> list[Path]:
    """Of CLIP, where the network attends to its tokens. Raises ModelError as `read_transformers`."""
    if is_original(root):
        return _one_of(root, "models_clip_open-clip-xlm-roberta-large-vit-huge-14")
    read_json(root / "image_encoder" / "config.json")
    return weight_files(root / "image_encoder", "model", "pytorch_model")


def tokenizer_directory(root: Path) -> Path:
    return root / "google" / "umt5-xxl" if is_original(root) else root / "tokenizer"


def check_components(root: Path) -> None:
    """That the folders of diffusers' layout are there, before anything is read.

    Raises:
        ModelError: names the one that is missing.
    """
    read_json(root / "model_index.json")
    for component in COMPONENTS:
        if not (root / component).is_dir():
            raise ModelError(f"{root / component}: the directory is missing")


def read_json(path: Path) -> dict[str, Any]:
    """Raises ModelError when the file is missing or does not hold a JSON object."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise ModelError(f"{path}: the file is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: holds no JSON object")
    return value


def weight_files(directory: Path, stem: str = DIFFUSERS_STEM, pickle_stem: str = DIFFUSERS_STEM) -> list[Path]:
    """The files of a component's weights: one, or those that its index names; safetensors before ``.bin``.

    Raises:
        ModelError: a file is missing or the index has no map of weights.
    """
    for name in (f"{stem}.safetensors", f"{pickle_stem}.bin"):
        index = directory / f"{name}.index.json"
        if index.exists():
            return _indexed_files(index)
        if (directory / name).is_file():
            return [directory / name]
    raise ModelError(f"{directory / f'{stem}.safetensors'}: the file is missing")


def check_header(path: Path) -> None:
    """Raises ModelError when a weights file is not what its name says; reads no weights."""
    if path.suffix == ".safetensors":
        stored_names(path)
        return
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if start != b"PK\x03\x04":
        raise ModelError(f"{path}: cannot be read as PyTorch weights: it is no zip archive")


def stored_names(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file. Raises ModelError when its header cannot be read."""
    try:
        with safe_open(path, framework="np") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as safetensors: {error}") from None


def read_random(directory: Path) -> RandomWeights | None:
    """How a component's weights are to be drawn; None where they are read from files.

    Raises:
        ModelError: the marker is damaged, or lies beside weights, so that nobody can tell which are meant.
    """
    path = directory / RANDOM_NAME
    if not path.exists():
        return None
    if any(directory.glob(f"{DIFFUSERS_STEM}*")):
        raise ModelError(f"{path}: lies beside weights, remove one or the other")
    value = read_json(path)
    try:
        return RandomWeights.model_validate(value)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        key = str(item["loc"][0])
        given = f" is {value[key]!r}" if key in value else ""
        raise ModelError(f"{path}: {key}{given}: {item['msg']}") from None


def _indexed_files(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f"{index}: has no weight_map")
    paths = [index.parent / name for name in sorted(set(weight_map.values()))]
    for path in paths:
        if not path.is_file():
            raise ModelError(f"{path}: the file is missing")
    return paths


def _diffusers_transformer(directory: Path) -> Component:
    config = read_json(directory / "config.json")
    _check_class(directory / "config.json", config, TRANSFORMER_CLASSES)
    return Component(directory, config, False, weight_files, read_random(directory))


def _original_transformer(directory: Path, paired: bool) -> Component:
    path = directory / "config.json"
    raw = read_json(path)
    _check_class(path, raw, ORIGINAL_CLASSES)
    try:
        config = _diffusers_config(raw, _has_image_tokens(raw, directory, paired))
    except KeyError as error:
        raise ModelError(f"{path}: {error.args[0]} is missing") from None
    if raw["model_type"] not in MODEL_TYPES:
        raise ModelError(f"{path}: model_type is {raw['model_type']!r}, expected one of {', '.join(MODEL_TYPES)}")
    return Component(directory, config, True, _original_files)


def _diffusers_config(raw: dict[str, Any], image_tokens: bool) -> dict[str, Any]:
    dim, heads = int(raw["dim"]), int(raw["num_heads"])
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
        every = 5 if raw["num_layers"] == 40 else 2  # as in the two public ones, whose configs leave it out or not
        config["vace_layers"] = raw.get("vace_layers") or list(range(0, raw["num_layers"], every))
        config["vace_in_channels"] = raw.get("vace_in_dim", 96)
    if image_tokens:
        config |= {"image_dim": raw.get("image_dim", 1280), "added_kv_proj_dim": dim}
        if raw["model_type"] == "flf2v":
            config["pos_embed_seq_len"] = FLF_IMAGE_TOKENS
    return config


def _has_image_tokens(raw: dict[str, Any], directory: Path, paired: bool) -> bool:
    """Wan2.2's pairs call themselves i2v as Wan2.1's single model does, and take no CLIP tokens; the weights tell."""
    if raw.get("model_type") not in ("i2v", "flf2v"):
        return False
    files = _original_files(directory)
    if all(path.suffix == ".safetensors" for path in files):
        return any(name.startswith("img_emb.") for path in files for name in stored_names(path))
    return not paired


def _original_files(directory: Path) -> list[Path]:
    """Under diffusers' file names, as released, or a ``.pth`` beside the configuration."""
    others = [p for p in sorted(directory.glob("*.pth")) if not p.name.startswith(("models_", "Wan2."))]
    try:
        return weight_files(directory)
    except ModelError:
        if not others:
            raise
        return others


def _one_of(root: Path, stem: str) -> list[Path]:
    for suffix in (".safetensors", ".pth"):
        if (root / (stem + suffix)).is_file():
            return [root / (stem + suffix)]
    raise ModelError(f"{root / (stem + '.pth')}: the file is missing")


def _check_class(path: Path, config: dict[str, Any], classes: tuple[str, ...]) -> None:
    if config.get("_class_name") not in classes:
        raise ModelError(f"{path}: _class_name is {config.get('_class_name')!r}, expected one of {', '.join(classes)}")

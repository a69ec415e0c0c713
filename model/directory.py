"""A checkpoint directory in either layout: where each component's configuration and weights are. Needs no torch.

Layouts: diffusers' (`model.index` and a folder for each component), and that of Wan's own releases
(`model.original_layout`). The configuration of either comes out in diffusers' words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.files import DIFFUSERS_STEM, ModelError, read_json, weight_files
from model.index import AUTOENCODER_CLASSES, COMPONENTS, TRANSFORMER_CLASSES, check_same_class, read_index
from model.original_layout import (
    CLIP_STEM,
    ORIGINAL_PAIR,
    TEXT_STEM,
    is_original,
    one_of,
    original_files,
    read_original,
)

__all__ = [
    "COMPONENTS",
    "DIFFUSERS_STEM",
    "RANDOM_NAME",
    "Component",
    "ModelError",
    "RandomWeights",
    "image_encoder_files",
    "is_original",
    "read_autoencoder",
    "read_json",
    "read_random",
    "read_text_encoder",
    "read_transformers",
    "tokenizer_directory",
    "weight_files",
]

RANDOM_NAME = "random_weights.json"


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


def read_transformers(root: Path) -> tuple[Component, ...]:
    """Read the transformer, or the two noise experts, the one for high noise first.

    Raises:
        ModelError: a file is missing or unreadable, or the class is not one we run.
    """
    if is_original(root):
        paired = (root / ORIGINAL_PAIR[0]).is_dir()
        folders = [root / name for name in ORIGINAL_PAIR] if paired else [root]
        return tuple(Component(path, read_original(path, paired), True, original_files) for path in folders)
    index = read_index(root)
    parts = []
    for name in ("transformer", "transformer_2") if index.has("transformer_2") else ("transformer",):
        directory = root / name
        config = _read_config(directory, TRANSFORMER_CLASSES)
        check_same_class(index, name, config)
        parts.append(Component(directory, config, False, weight_files, read_random(directory)))
    return tuple(parts)


def read_autoencoder(root: Path) -> Component:
    """Raises ModelError as `read_transformers`."""
    if is_original(root):
        wan22 = any(root.glob("Wan2.2_VAE.*"))
        find = partial(one_of, stem="Wan2.2_VAE" if wan22 else "Wan2.1_VAE")
        config = {"_class_name": "AutoencoderKLWan", "z_dim": 48 if wan22 else 16}
        config |= {"scale_factor_spatial": 16 if wan22 else 8, "scale_factor_temporal": 4}
        return Component(root, config, True, find)
    config = _read_config(root / "vae", AUTOENCODER_CLASSES)
    check_same_class(read_index(root), "vae", config)
    return Component(root / "vae", config, False, weight_files)


def read_text_encoder(root: Path) -> Component:
    """UMT5's encoder. Raises ModelError as `read_transformers`."""
    if is_original(root):
        return Component(root, {}, True, partial(one_of, stem=TEXT_STEM))
    directory = root / "text_encoder"
    config = read_json(directory / "config.json")
    _check_plain(directory / "config.json", config)
    _check_model_type(directory / "config.json", config, "umt5")
    return Component(directory, config, False, partial(weight_files, stem="model", pickle_stem="pytorch_model"))


def read_image_encoder(root: Path) -> Component:
    """CLIP's vision tower, where the network attends to its tokens. Raises ModelError as `read_transformers`."""
    if is_original(root):
        return Component(root, {}, True, partial(one_of, stem=CLIP_STEM))
    directory = root / "image_encoder"
    config = read_json(directory / "config.json")
    _check_plain(directory / "config.json", config)
    _check_model_type(directory / "config.json", config, "clip_vision_model")
    return Component(directory, config, False, partial(weight_files, stem="model", pickle_stem="pytorch_model"))


def image_encoder_files(root: Path) -> list[Path]:
    """Of CLIP. Raises ModelError as `read_transformers`."""
    return read_image_encoder(root).files


def tokenizer_directory(root: Path) -> Path:
    return root / "google" / "umt5-xxl" if is_original(root) else root / "tokenizer"


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


def _read_config(directory: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    path = directory / "config.json"
    config = read_json(path)
    if config.get("_class_name") not in classes:
        raise ModelError(f"{path}: _class_name is {config.get('_class_name')!r}, expected one of {', '.join(classes)}")
    _check_plain(path, config)
    return config


def _check_plain(path: Path, config: dict[str, Any]) -> None:
    """Raises ModelError where the weights are quantised: read as they are, they would be noise."""
    if (how := config.get("quantization_config")) is not None:
        method = how.get("quant_method") or how.get("quant_type") if isinstance(how, dict) else how
        raise ModelError(f"{path}: quantization_config is there ({method}): quantised weights are not run")


def _check_model_type(path: Path, config: dict[str, Any], wanted: str) -> None:
    kind, architectures = config.get("model_type", wanted), config.get("architectures")
    if kind != wanted:
        raise ModelError(f"{path}: model_type is {kind!r}, expected {wanted!r}")
    prefix = {"umt5": "UMT5", "clip_vision_model": "CLIPVision"}[wanted]
    if isinstance(architectures, list) and not any(str(name).startswith(prefix) for name in architectures):
        raise ModelError(f"{path}: architectures are {architectures!r}, expected a {prefix} one")

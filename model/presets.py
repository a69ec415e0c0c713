"""Which models there are and what each can do; reads configuration files only and needs no torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from model.tasks import ModelCard

NANO_DIRECTORY = Path(__file__).parent / "nano" / "weights"
PRESETS: dict[str, Path] = {"nano": NANO_DIRECTORY}

COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
TEXT_TO_VIDEO_CLASSES = ("WanTransformer3DModel", "ZoetropeTransformer3DModel")
DIFFUSERS_STEM = "diffusion_pytorch_model"
AUTOENCODER_CLASSES = ("AutoencoderKLWan", "LinearVideoAutoencoder")


class ModelError(Exception):
    """A model cannot be used: unknown, incomplete or of another family. The message says which file or key and why."""


def find_model(name_or_directory: str) -> ModelCard:
    """The card of a preset, or of a checkpoint directory in diffusers' layout.

    Raises:
        ModelError: neither a preset nor a usable directory.
    """
    if name_or_directory in PRESETS:
        return replace(read_card(PRESETS[name_or_directory], name_or_directory), **NANO_CARD)
    directory = Path(name_or_directory)
    if not directory.is_dir():
        raise ModelError(
            f"model {name_or_directory!r} is neither a preset ({', '.join(PRESETS)}) nor a directory"
        )
    return read_card(directory, directory.resolve().name)


# nano was trained at these sizes, so it draws well at no other; larger requests are scaled up by the decoder.
NANO_CARD: dict[str, Any] = {
    "native_sizes": ((56, 32), (32, 56), (40, 40), (40, 32), (32, 40)),
    "fps": 8,
    "default_frames": 16,
    "max_frames": 33,
    "default_steps": 30,
    "default_guidance": 3.0,
    "max_text_tokens": 32,
}


def read_card(directory: Path, name: str) -> ModelCard:
    """Read a checkpoint's configuration files.

    Raises:
        ModelError: a file is missing or unreadable, or the classes are not ones we run.
    """
    read_json(directory / "model_index.json")
    for component in COMPONENTS:
        if not (directory / component).is_dir():
            raise ModelError(f"{directory / component}: the directory is missing")
    if (directory / "transformer_2").exists():
        raise ModelError(f"{directory / 'transformer_2'}: checkpoints of two noise experts are not supported yet")
    transformer = read_json(directory / "transformer" / "config.json")
    if transformer.get("_class_name") not in TEXT_TO_VIDEO_CLASSES:
        raise ModelError(
            f"{directory / 'transformer' / 'config.json'}: _class_name is {transformer.get('_class_name')!r}, "
            f"expected one of {', '.join(TEXT_TO_VIDEO_CLASSES)}"
        )
    vae = read_json(directory / "vae" / "config.json")
    if vae.get("_class_name") not in AUTOENCODER_CLASSES:
        raise ModelError(
            f"{directory / 'vae' / 'config.json'}: _class_name is {vae.get('_class_name')!r}, "
            f"expected one of {', '.join(AUTOENCODER_CLASSES)}"
        )
    if transformer.get("in_channels") != vae.get("z_dim"):
        raise ModelError(
            f"{directory}: the transformer takes {transformer.get('in_channels')} channels and the autoencoder gives "
            f"{vae.get('z_dim')}; only text to video with equal channels is served"
        )
    spatial = int(vae.get("scale_factor_spatial", 8))
    temporal = int(vae.get("scale_factor_temporal", 4))
    patch = transformer.get("patch_size", [1, 2, 2])
    return ModelCard(
        name=name,
        directory=str(directory),
        tasks=("text_to_video",),
        native_sizes=(),
        size_multiple=spatial * int(patch[1]),
        spatial=spatial,
        temporal=temporal,
        latent_channels=int(transformer["in_channels"]),
        fps=24 if spatial == 16 else 16,
        default_frames=81,
        max_frames=121 if spatial == 16 else 81,
        default_steps=50,
        default_guidance=5.0,
        max_text_tokens=512,
    )


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


def check_files(card: ModelCard) -> None:
    """Check that the weights of every component are there and that their headers can be read.

    Raises:
        ModelError: names the file that is missing or corrupt.
    """
    root = Path(card.directory)
    for component, stem in (("transformer", DIFFUSERS_STEM), ("vae", DIFFUSERS_STEM), ("text_encoder", "model")):
        for path in weight_files(root / component, stem):
            _check_header(path)
    read_json(root / "scheduler" / "scheduler_config.json")
    if not any((root / "tokenizer").glob("*.json")) and not any((root / "tokenizer").glob("*.model")):
        raise ModelError(f"{root / 'tokenizer'}: holds no tokenizer file")


def weight_files(directory: Path, stem: str = DIFFUSERS_STEM) -> list[Path]:
    """The safetensors files of a component: one, or those that its index names."""
    single = directory / f"{stem}.safetensors"
    index = directory / f"{stem}.safetensors.index.json"
    if not index.exists():
        if not single.is_file():
            raise ModelError(f"{single}: the file is missing")
        return [single]
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f"{index}: has no weight_map")
    paths = [directory / name for name in sorted(set(weight_map.values()))]
    for path in paths:
        if not path.is_file():
            raise ModelError(f"{path}: the file is missing")
    return paths


def _check_header(path: Path) -> None:
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as safetensors: {error}") from None

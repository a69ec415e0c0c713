"""Which models there are and what each can do; reads configuration files only and needs no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from model.card import check_files, read_card
from model.config import TransformerConfig
from model.directory import COMPONENTS, DIFFUSERS_STEM, ModelError, read_json, weight_files
from model.family import FAMILY, AutoencoderKind, Preset, Sampling
from model.tasks import TASK_KINDS, ModelCard

__all__ = [
    "COMPONENTS",
    "DIFFUSERS_STEM",
    "FAMILY",
    "NANO_CARD",
    "NANO_DIRECTORY",
    "PRESETS",
    "ModelError",
    "Preset",
    "all_presets",
    "check_files",
    "find_model",
    "read_card",
    "read_json",
    "weight_files",
]

NANO_DIRECTORY = Path(__file__).parent / "nano" / "weights"
PRESETS: dict[str, Path] = {"nano": NANO_DIRECTORY}  # those whose weights come along

# nano was trained at these sizes, so it draws well at no other; larger requests are scaled up by the decoder.
NANO_CARD: dict[str, Any] = {
    "native_sizes": ((40, 24), (24, 40), (32, 32), (32, 24), (24, 32)),
    "tasks": TASK_KINDS,
    "fps": 8,
    "default_frames": 16,
    "max_frames": 120,
    "segment_frames": 17,
    "overlap_frames": 5,
    "max_references": 2,
    "default_steps": 30,
    "default_guidance": 3.0,
    "max_text_tokens": 32,
    "default_negative_prompt": "",
    "flow_shift_note": "scheduler_config.json",
}


def find_model(name_or_directory: str) -> ModelCard:
    """The card of a preset, or of a checkpoint directory in diffusers' layout or that of Wan's own releases.

    Raises:
        ModelError: neither a preset with weights nor a usable directory.
    """
    if name_or_directory in PRESETS:
        return replace(read_card(PRESETS[name_or_directory], name_or_directory), **NANO_CARD)
    directory = Path(name_or_directory)
    if directory.is_dir():
        return read_card(directory, directory.resolve().name)
    if name_or_directory in FAMILY:
        raise ModelError(
            f"model {name_or_directory!r} is a preset without weights of its own: give the directory of its checkpoint "
            f"({_origin(FAMILY[name_or_directory])})"
        )
    raise ModelError(f"model {name_or_directory!r} is neither a preset ({', '.join(PRESETS)}) nor a directory")


def all_presets() -> dict[str, Preset]:
    """The family, and nano as its weights are. Raises ModelError when those are damaged."""
    card = find_model("nano")
    config = TransformerConfig.model_validate(read_json(NANO_DIRECTORY / "transformer" / "config.json"))
    nano = Preset(
        name="nano",
        weights="comes along",
        config=config,
        vae=AutoencoderKind("linear", card.latent_channels, card.spatial, card.temporal),
        sampling=Sampling(card.fps, card.default_frames, card.default_steps, 3.0, card.default_guidance),
        native_sizes=card.native_sizes,
    )
    return {**FAMILY, "nano": nano}


def _origin(preset: Preset) -> str:
    if preset.upcycling is None:
        return preset.weights
    return f"zoetrope upcycle SRC DST --preset {preset.name}, SRC being {preset.weights}"

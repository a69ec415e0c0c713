"""Which models there are and what each can do; reads configuration files only and needs no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from model.card import read_card
from model.checks import check_files, checked
from model.config import TransformerConfig
from model.directory import COMPONENTS, DIFFUSERS_STEM, ModelError, read_json, weight_files
from model.family import FAMILY, AutoencoderKind, Preset, Sampling
from model.hub import REPOSITORY, cached_repository, hub_cache, places, repository_of, snapshot_of
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
    "open_model",
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
    "family": "nano",
    "default_negative_prompt": "",
    "flow_shift_note": "scheduler_config.json",
}


def open_model(name_or_directory: str, family: str = "") -> ModelCard:
    """Find a model and check all that its index, its configurations and the headers of its files say.

    Every command that works with the files of a model begins with this; nothing but headers has been read when it ends,
    and torch is not needed.

    Args:
        family: what the caller says that the directory holds (`model.identity`); "" for nothing.

    Returns:
        Its card, with ``warnings`` to be told once.

    Raises:
        ModelError: names the file or key at fault, or says what the name is that is no model's.
    """
    return checked(find_model(name_or_directory, family))


def find_model(name_or_directory: str, family: str = "") -> ModelCard:
    """Read the card of a preset, or of a directory in diffusers' layout or that of Wan's own releases.

    A directory may lie in a hub's cache; a repository's name, ORG/NAME, stands for what the cache has of it. Only
    configuration files are read, which are all that a gateway has.

    Raises:
        ModelError: as `open_model`, as far as configurations tell.
    """
    if name_or_directory in PRESETS:
        card = replace(read_card(PRESETS[name_or_directory], name_or_directory), **NANO_CARD)
        ignored = f"family: {family} is ignored, {name_or_directory} is a preset and says itself what it is"
        return replace(card, warnings=(ignored,)) if family else card
    typed = Path(name_or_directory).expanduser()
    if not typed.is_dir() and (cached := cached_repository(name_or_directory)) is not None:
        typed = cached
    if typed.is_dir():
        repository = repository_of(typed)
        name = Path(repository).name if repository else next(places(typed)).name
        return read_card(snapshot_of(typed), name, typed, family)
    if name_or_directory in FAMILY:
        raise ModelError(
            f"model {name_or_directory!r} is a preset without weights of its own: give the directory of its checkpoint "
            f"({_origin(FAMILY[name_or_directory])})"
        )
    if REPOSITORY.fullmatch(name_or_directory) and not typed.parent.is_dir():
        raise ModelError(
            f"model {name_or_directory!r} looks like a repository of a hub and is no directory here, nor is it in "
            f"{hub_cache()}: download it (hf download {name_or_directory}) and name it again, or its directory"
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

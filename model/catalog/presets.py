"""Find a model by name or directory. Reads configuration files and headers only; needs no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from zoetrope.model.adapters.files.card import check_adapters
from zoetrope.model.catalog.checks import checked
from zoetrope.model.catalog.hub import REPOSITORY, cached_repository, hub_cache, places, repository_of, snapshot_of
from zoetrope.model.catalog.model_card import network_config, read_card
from zoetrope.model.families import BUNDLED, PRESETS
from zoetrope.model.families.family import Preset
from zoetrope.model.families.quantization import why_exact
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.load_options import DEFAULT, LoadOptions
from zoetrope.model.request.tasks import ModelCard


def open_model(name_or_directory: str, load: LoadOptions = DEFAULT) -> ModelCard:
    """Find a model and check its index, its configurations and the headers of its files.

    Every command that uses a model's files calls this first. It reads nothing beyond headers.

    Args:
        load: how it is to be loaded.

    Returns:
        Its card, whose ``warnings`` should be shown once.

    Raises:
        ModelError: names the file or key at fault, or explains why the name is not a model, or has no such form.
    """
    return checked(find_model(name_or_directory, load))


def find_model(name_or_directory: str, load: LoadOptions = DEFAULT) -> ModelCard:
    """Read the card of a preset, or of a directory in diffusers' layout or that of Wan's own releases.

    The directory may be in a hub's cache; a repository's name, ORG/NAME, means its copy in the cache. Only
    configuration files are read, and adapters: a gateway has no others.

    Raises:
        ModelError: as `open_model`, as far as configurations show.
    """
    card = _find(name_or_directory, load.family)
    if load.quantize != "none" and (problem := why_exact(network_config(card))) is not None:
        raise ModelError(f"quantize: {load.quantize} is not possible for {card.name}: {problem}")
    if not load.lora:
        return replace(card, load=load)
    found = check_adapters(load.lora, network_config(card), 1 if card.boundary is None else 2)
    return replace(card, load=load, adapters=found.adapters, warnings=(*card.warnings, *found.warnings))


def _find(name_or_directory: str, family: str) -> ModelCard:
    if name_or_directory in BUNDLED:
        card = bundled_card(BUNDLED[name_or_directory])
        ignored = f"family: {family} is ignored: {name_or_directory} is a preset"
        return replace(card, warnings=(ignored,)) if family else card
    typed = Path(name_or_directory).expanduser()
    if not typed.is_dir() and (cached := cached_repository(name_or_directory)) is not None:
        typed = cached
    if typed.is_dir():
        repository = repository_of(typed)
        name = Path(repository).name if repository else next(places(typed)).name
        return read_card(snapshot_of(typed), name, typed, family)
    if name_or_directory in PRESETS:
        raise ModelError(
            f"model {name_or_directory!r} is a preset without weights of its own: give the directory of its checkpoint "
            f"({_origin(PRESETS[name_or_directory])})"
        )
    if REPOSITORY.fullmatch(name_or_directory) and not typed.parent.is_dir():
        raise ModelError(
            f"model {name_or_directory!r} looks like a Hugging Face repository, but is not a directory here and not in "
            f"{hub_cache()}: download it (hf download {name_or_directory}), or give its directory"
        )
    raise ModelError(f"model {name_or_directory!r} is neither a preset ({', '.join(BUNDLED)}) nor a directory")


def bundled_card(preset: Preset, directory: Path | None = None) -> ModelCard:
    """Read the card of a preset whose weights come with the package; ``directory``: of other weights of it.

    Raises:
        ModelError: as `find_model`.
    """
    folder = preset.directory if directory is None else directory
    if folder is None:
        raise ModelError(f"{preset.name}: no weights come with the package")
    fields: dict[str, Any] = dict(preset.card)
    return replace(read_card(folder, preset.name), **fields)


def _origin(preset: Preset) -> str:
    if preset.upcycling is None:
        return preset.weights
    return f"zoetrope upcycle SRC DST --preset {preset.name}, SRC being {preset.weights}"

"""Find a model by name or directory. Reads configuration files and headers only; needs no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from zoetrope.model.adapters.files.card import check_adapters
from zoetrope.model.catalog.card_files import card_files, find_card_file, read_card_file
from zoetrope.model.catalog.checkpoint_layout import pipeline_of
from zoetrope.model.catalog.checks import check_ratios, checked
from zoetrope.model.catalog.exported_cards import EXPORTED_SUFFIX, read_exported
from zoetrope.model.catalog.hub import REPOSITORY, cached_repository, places, repository_of, snapshot_of, why_not_cached
from zoetrope.model.catalog.model_card import RANDOM_SUFFIX, network_config, read_card
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.catalog.profiles import choose
from zoetrope.model.catalog.single_files import is_weight_file
from zoetrope.model.families import BUNDLED, PRESETS
from zoetrope.model.families.family import Preset
from zoetrope.model.families.quantization import why_exact
from zoetrope.model.inspection.files import TOML_SUFFIX, ModelError, typed_path
from zoetrope.model.inspection.shown import printable
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
    card = find_model(name_or_directory, load)
    if card.exported_weights:
        raise ModelError(
            f"model: {name_or_directory} is an exported card: gateways can be started with it, nothing else"
        )
    card = checked(card)
    check_ratios(card)
    return card


def find_model(name_or_directory: str, load: LoadOptions = DEFAULT) -> ModelCard:
    """Read the card of a preset, of a directory in diffusers' layout or that of Wan's own releases, of a single file,
    or of what a model card names (`model.catalog.card_files`), by its name or path.

    The directory may be in a hub's cache; a repository's name, ORG/NAME, means its copy in the cache. Only
    configuration files are read, adapters, and headers of single files: a gateway has no others. Of an exported card
    (`model.catalog.exported_cards`) nothing else is.

    Raises:
        ModelError: as `open_model`, as far as configurations show.
    """
    if name_or_directory.endswith(EXPORTED_SUFFIX):
        return read_exported(name_or_directory, load)
    file = None if name_or_directory in BUNDLED else find_card_file(name_or_directory)
    weights = name_or_directory
    if file is not None:
        weights, said = read_card_file(file)
        load = load.over(said)
        card = _find(weights, load)
        card = replace(card, name=file.stem + (RANDOM_SUFFIX if card.name.endswith(RANDOM_SUFFIX) else ""))
        if not (named := name_or_directory).endswith(TOML_SUFFIX) and Path(named).is_dir():
            note = f"model: {named} is the card {file}; for the folder of that name give ./{named}"
            card = replace(card, warnings=(*card.warnings, note))
    else:
        card = _find(name_or_directory, load)
    card = replace(card, load=replace(load, given=()))
    if load.quantize != "none" and (problem := why_exact(network_config(card))) is not None:
        raise ModelError(f"quantize: {load.quantize} is not possible for {card.name}: {problem}")
    if load.lora:
        found = check_adapters(load.lora, network_config(card), 1 if card.boundary is None else 2)
        card = replace(card, adapters=found.adapters, warnings=(*card.warnings, *found.warnings))
    own = BUNDLED[weights].profile if weights in BUNDLED else ""
    card = choose(card, [] if weights in BUNDLED else _names(weights), pipeline_of(source_of(card)), own)
    return replace(card, warnings=tuple(map(printable, card.warnings)))


def _find(name_or_directory: str, load: LoadOptions) -> ModelCard:
    if name_or_directory in BUNDLED:
        card = bundled_card(BUNDLED[name_or_directory])
        if load.parts:
            option = next(iter(load.parts)).replace("_", "-")
            raise ModelError(f"{option}: {name_or_directory} comes with all of its components: leave it out")
        ignored = f"family: {load.family} is ignored: {name_or_directory} is a preset"
        return replace(card, warnings=(ignored,)) if load.family else card
    typed = _typed(name_or_directory)
    if is_weight_file(typed):
        return read_card(typed, typed.stem, typed, load)
    if typed.is_dir():
        repository = repository_of(typed)
        name = Path(repository).name if repository else next(places(typed)).name
        return read_card(snapshot_of(typed), name, typed, load)
    if name_or_directory in PRESETS:
        raise ModelError(
            f"model {name_or_directory!r} is a preset without weights of its own: give the directory of its checkpoint "
            f"({_origin(PRESETS[name_or_directory])})"
        )
    if REPOSITORY.fullmatch(name_or_directory) and not typed.parent.is_dir():
        raise ModelError(f"model {why_not_cached(name_or_directory)}")
    cards = ", ".join(path.stem for path in card_files()[:20])
    raise ModelError(
        f"model {name_or_directory!r} is neither a preset ({', '.join(BUNDLED)}) nor a directory, a weight file or "
        f"a model card{f' ({cards})' if cards else ''}"
    )


def _typed(name_or_directory: str) -> Path:
    """Return the folder that a name means: itself, or a repository's in the hub's cache."""
    typed = typed_path(name_or_directory, "model")
    if not typed.is_dir() and (cached := cached_repository(name_or_directory)) is not None:
        return cached
    return typed


def _names(name_or_directory: str) -> list[str]:
    """List the names of a folder or file and of its repository, which may say what distill it is."""
    typed = _typed(name_or_directory)
    repository = repository_of(typed)
    if is_weight_file(typed):
        return [typed.stem, *([repository] if repository else [])]
    if not typed.is_dir():
        return []
    return [*([repository] if repository else []), *(place.name for place in places(typed))]


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

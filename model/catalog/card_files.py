"""Read and write model cards: a small TOML file that names a model's parts and how they are loaded. Needs no torch.

    model = "/models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"
    model_low = "/models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors"
    vae = "/models/wan_2.1_vae.safetensors"
    text_encoder = "/models/umt5_xxl_fp8_e4m3fn_scaled.safetensors"

Its keys are ``model`` and the options of the command line that say how a model is loaded
(`model.request.load_options`); a table ``[profile]`` is a sampling profile of its own. Its name is the model's. Paths
are relative to its folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints

from zoetrope.model.catalog.hub import REPOSITORY
from zoetrope.model.catalog.single_files import SUFFIXES
from zoetrope.model.families import all_presets
from zoetrope.model.inspection.files import TOML_SUFFIX, ModelError, read_toml, typed_path
from zoetrope.model.inspection.shown import shown
from zoetrope.model.request.load_options import OPTIONS, PARTS, LoadOptions

CARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MODEL_KEY = "model"
PLACES = (MODEL_KEY, *PARTS, "lora", "profile")  # keys whose values are paths, or may be
FOLDER_VARIABLE, DATA_VARIABLE = "ZOETROPE_MODELS_DIR", "ZOETROPE_DATA_DIR"
DEFAULT_DATA = "~/.local/share/zoetrope"


def cards_folder(data_folder: Path | None = None) -> Path:
    """Return the folder of the cards that have names: ``models`` in a data folder, or ZOETROPE_MODELS_DIR.

    Args:
        data_folder: None: that of the environment, ZOETROPE_DATA_DIR, or the usual one.
    """
    text = os.environ.get(FOLDER_VARIABLE)
    if text and data_folder is None:
        return typed_path(text, FOLDER_VARIABLE)
    data = os.environ.get(DATA_VARIABLE) or DEFAULT_DATA if data_folder is None else data_folder
    return typed_path(str(data), DATA_VARIABLE if data_folder is None else "data-dir") / "models"


def find_card_file(name_or_file: str, folder: Path | None = None) -> Path | None:
    """Return the card that a name or a path means; None if it means none.

    Args:
        folder: of the cards that have names.
    """
    if name_or_file.endswith(TOML_SUFFIX):
        return typed_path(name_or_file, MODEL_KEY)
    if not CARD_NAME.fullmatch(name_or_file):
        return None
    named = (cards_folder() if folder is None else folder) / f"{name_or_file}{TOML_SUFFIX}"
    return named if named.is_file() else None


def card_files(folder: Path | None = None) -> list[Path]:
    """List the cards that have names."""
    folder = cards_folder() if folder is None else folder
    return sorted(path for path in folder.glob(f"*{TOML_SUFFIX}") if CARD_NAME.fullmatch(path.stem))


def check_card_name(name: str) -> None:
    """Raise ModelError if a card cannot have a name."""
    if not CARD_NAME.fullmatch(name) or name.endswith(TOML_SUFFIX):
        raise ModelError(f"name: {name[:80]!r} must be 1 to 64 letters, digits and . _ -, such as my-wan")
    if name in all_presets():
        raise ModelError(f"name: {name} is a preset, choose another")


def read_card_file(path: Path) -> tuple[str, LoadOptions]:
    """Read a card: the model that it names, and how it is loaded.

    Raises:
        ModelError: it cannot be read, or a key is missing, unknown or not what it must be.
    """
    values = read_toml(path)
    for name in PLACES:
        value = values.get(name, "")
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text:
                typed_path(text, f"{path}: {name}")
    if isinstance(values.get("profile"), dict):  # `model.catalog.profiles.read_profile` reads the table
        values["profile"] = path.name
    model = values.pop(MODEL_KEY, None)
    if not isinstance(model, str) or not model:
        raise ModelError(f"{path}: {MODEL_KEY} must be a text: a weight file, a folder, a repository or a preset")
    if model.endswith(TOML_SUFFIX):
        raise ModelError(f"{path}: {MODEL_KEY} is {shown(model)}, a card itself: name what that one names")
    load = LoadOptions(**{name: _checked(path, name, value) for name, value in values.items()})
    base = path.resolve().parent
    places: dict[str, Any] = {name: _place(base, value) for name, value in load.parts.items()}
    adapters = tuple(_from(base, text) for text in load.lora)
    places["profile"] = _profile(base, load.profile)
    return _place(base, model), dataclasses.replace(load, lora=adapters, **places)


def write_card_file(path: Path, model: str, load: LoadOptions, *, replace: bool) -> None:
    """Write a card, whole or not at all.

    Args:
        model: as on the command line; it and all paths become absolute. replace: a card that is there.

    Raises:
        ModelError: there is one, also if it came just now and is not to be replaced, or the folder cannot be written
            to.
    """
    here = Path.cwd()
    lines = [f"{MODEL_KEY} = {_toml(_place(here, model))}"]
    for name, default in OPTIONS.items():
        value: Any = getattr(load, name)
        if value == default:
            continue
        if name == "lora":
            value = [_from(here, text) for text in value]
        elif name in PARTS:
            value = _place(here, value)
        elif name == "profile":
            value = _profile(here, value)
        lines.append(f"{name} = {_toml(value)}")
    try:
        content = ("\n".join(lines) + "\n").encode()
    except UnicodeEncodeError:
        raise ModelError(f"{path}: cannot be written: a path in it is not UTF-8, as cards must be") from None
    work = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work.write_bytes(content)
        if not replace:
            path.touch(exist_ok=False)  # of two that write at once, one has the name; not every disk has links
        work.replace(path)
    except FileExistsError:
        raise ModelError(f"name: {path} exists, replace it with --force") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            work.unlink()


def _checked(path: Path, name: str, value: Any) -> Any:
    """Return the value of a key as `LoadOptions` has it. Raises ModelError if it is not of its kind."""
    hints = get_type_hints(LoadOptions)
    if name not in OPTIONS:
        known = ", ".join((MODEL_KEY, *OPTIONS))
        raise ModelError(f"{path}: {name[:80]} is not a key of a card; keys: {known}")
    if name == "lora":
        if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
            raise ModelError(f"{path}: lora must be a list of texts, FILE[:STRENGTH][@SIDE] each")
        return tuple(value)
    if not isinstance(value, str):
        raise ModelError(f"{path}: {name} must be a text")
    allowed = get_args(hints[name])
    if allowed and value not in allowed:
        raise ModelError(f"{path}: {name} is {value[:80]!r}, must be {' or '.join(allowed)}")
    return value


def _place(base: Path, text: str) -> str:
    """Return a path from a folder; a preset or a repository as it is."""
    repository = REPOSITORY.fullmatch(text) and not (base / text).exists() and Path(text).suffix not in SUFFIXES
    return text if repository or text in all_presets() else _from(base, text)


def _profile(base: Path, text: str) -> str:
    """Return the path of a profile's file from a folder; a profile's name as it is."""
    return _from(base, text) if text.endswith(TOML_SUFFIX) else text


def _from(base: Path, text: str) -> str:
    """Return a path, or a text that begins with one, from a folder."""
    return os.path.normpath(base / os.path.expanduser(text))


def _toml(value: str | list[str]) -> str:
    """Return a value in TOML: JSON's texts and lists are TOML's too, but that it has one more character to escape."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

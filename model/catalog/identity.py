"""Identify the preset that a folder holds. Needs no torch.

Contents come first: how pictures enter, the number of networks, their shapes, a family's own index. What they leave
open (Wan2.1's two image to video models differ only in their weights) is decided by the origin that the folder states
(README, ``_name_or_path``), by its repository in a hub's cache, or by a folder or link with exactly the name of a
repository or preset. Other names prove nothing: a folder can have any name. If the answer is still open and matters,
the caller must give it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from zoetrope.model.catalog.hub import places, repository_of
from zoetrope.model.families import FAMILIES, PRESETS, family_of
from zoetrope.model.families.family import Contents, Family, Preset
from zoetrope.model.inspection.files import ModelError

README_BYTES = 64 << 10
SHAPE = ("num_attention_heads", "attention_head_dim", "num_layers", "ffn_dim", "vace_layers")
TITLE = re.compile(r"^#\s+(.+)$", re.MULTILINE)
ABOUT = re.compile(r"\bThis repository [^.\n]{0,300}", re.IGNORECASE)
BASE = re.compile(r"^base_model:[ \t]*(?:\n\s*-\s*)?(\S+)", re.MULTILINE)


def possible_families(contents: Contents) -> list[Family]:
    """List the families that a folder may hold, by its network and how pictures enter it."""
    return [family for family in FAMILIES if contents.network in family.networks and family.matches(contents)]


def identify(contents: Contents, typed: Path, family: str = "") -> tuple[Preset, list[str]]:
    """Identify the preset, and return warnings about names that contradict it.

    Args:
        typed: the folder as the caller named it. family: the preset that the caller says it is; "" if unknown.

    Raises:
        ModelError: the caller is wrong, or must say which it is because nothing else does.
    """
    possible = _possible(contents)
    if family:
        return _said(family, possible, contents.root), []
    found = _by_contents(possible, contents)
    repository = repository_of(typed)
    called = [place.name for place in places(typed)]
    names = ([repository] if repository else []) + [name for name in called if _known(name, whole=True)]
    for text in (*_sayings(contents), *names):
        found = _by_name(found, text)
    preset = _chosen(found, contents)
    warnings = []
    for name in names:
        other = _known(name)
        if other is not None and other not in possible:
            warnings.append(f"{contents.root}: it is called {name}, but its files are those of {preset.name}")
    warnings += _hints(preset, possible, called, contents.root)
    return preset, list(dict.fromkeys(warnings))


def _hints(preset: Preset, possible: list[Preset], called: list[str], root: Path) -> Iterator[str]:
    """Warn if a name mentions a family that identifies itself in its files, and the files do not."""
    for family in {id(family): family for family in map(_family, possible)}.values():
        own, words = family.own_index, {word for one in family.presets for word in one.words}
        hint = next((name for name in called if any(word in name.lower() for word in words)), None)
        if own is not None and hint is not None and preset not in family.presets:
            yield (
                f"{root}: it is called {hint}, but nothing in it says that it is a {own.title}: it is served as "
                f"{preset.name}; give --family (ZOETROPE_FAMILY) if it is one"
            )


def _family(preset: Preset) -> Family:
    return family_of(preset.name)


def _said(family: str, possible: list[Preset], root: Path) -> Preset:
    if family not in PRESETS:
        raise ModelError(f"family: {family!r} is not one of {', '.join(PRESETS)}")
    if PRESETS[family] not in possible:
        names = " or ".join(preset.name for preset in possible)
        raise ModelError(f"family: {family} does not match {root}: its files are those of {names}")
    return PRESETS[family]


def _possible(contents: Contents) -> list[Preset]:
    """List the presets of the possible families that are most like the contents. Raises ModelError if there are
    none."""
    config = contents.config
    found = [preset for family in possible_families(contents) for preset in family.presets]
    if not found:
        raise ModelError(f"{contents.root}: no supported family has a {contents.network} with such a configuration")
    for same in (
        lambda preset: preset.transformers == contents.transformers,
        lambda preset: (preset.config.moe is None) == (config.moe is None),
        lambda preset: (preset.config.image_dim is None) == (config.image_dim is None),
        lambda preset: (preset.config.pos_embed_seq_len is None) == (config.pos_embed_seq_len is None),
    ):
        found = [preset for preset in found if same(preset)] or found
    return found


def _by_contents(possible: list[Preset], contents: Contents) -> list[Preset]:
    if contents.index is not None and contents.index.declared:
        declared = contents.index.declared
        possible = [preset for preset in possible if _family(preset).name == declared] or possible
    shape = [getattr(contents.config, key) for key in SHAPE]
    return [preset for preset in possible if [getattr(preset.config, key) for key in SHAPE] == shape] or possible


def _sayings(contents: Contents) -> Iterator[str]:
    """Yield what the files say of their origin, the most reliable first: the README's title, its sentence about the
    repository, the models that they were made from. A single file has nothing but its name."""
    if contents.root.is_file():
        yield contents.root.stem.replace("_", "-")
        return
    readme, text = contents.root / "README.md", ""
    with suppress(OSError):
        if readme.is_file():
            with readme.open("rb") as file:
                text = file.read(README_BYTES).decode(errors="replace")
    if (title := TITLE.search(text)) is not None:
        yield title[1]
    if (about := ABOUT.search(text)) is not None:
        yield about[0]
    yield from contents.index.origins if contents.index is not None else ()
    if contents.origin:
        yield contents.origin
    if (base := BASE.search(text)) is not None:
        yield base[1].strip("\"'")


def _by_name(found: list[Preset], text: str) -> list[Preset]:
    """Keep the one preset of ``found`` that a name or sentence mentions; all if it mentions none or several."""
    if len(found) == 1:
        return found
    if (known := _known(text)) is not None and known in found:
        return [known]
    words = set(re.split(r"[^a-z0-9.]+", text.lower()))
    told = [preset for preset in found if words.intersection(preset.words)]
    return told if len(told) == 1 else found


def _known(text: str, whole: bool = False) -> Preset | None:
    """Find the preset whose repository or own name this is, or is part of it, longest first; the owner, case and
    ``-Diffusers`` are ignored."""
    name = text.lower().replace("___", ".").rpartition("/")[2].removesuffix("-diffusers")
    for known, preset in sorted(_names().items(), key=lambda item: -len(item[0])):
        inside = re.search(rf"(?<![a-z0-9]){re.escape(known)}(?![a-z0-9])", name)
        if name == known or (inside and not whole):
            return preset
    return None


def _names() -> dict[str, Preset]:
    """Return presets by their lower-case names and those of their public repositories, without the owner."""
    names = {preset.name: preset for preset in PRESETS.values()}
    for preset in PRESETS.values():
        if preset.upcycling is None:
            names[preset.weights.rpartition("/")[2].lower().removesuffix("-diffusers")] = preset
    return names


def _chosen(found: list[Preset], contents: Contents) -> Preset:
    """Choose among the presets that are left: not one of a family that identifies itself, then by the family's rule."""
    left: Sequence[Preset] = [preset for preset in found if _family(preset).own_index is None] or found
    for family in {id(family): family for family in map(_family, left)}.values():
        left = family.narrow(left, contents)
    first = min(left, key=lambda preset: abs(preset.config.dim - contents.config.dim))
    if all(preset.sampling == first.sampling for preset in left):
        return first
    names = " or ".join(preset.name for preset in left)
    raise ModelError(
        f"{contents.root}: its files may be those of {names}, which sample differently, and nothing says which: "
        "give --family (ZOETROPE_FAMILY)"
    )

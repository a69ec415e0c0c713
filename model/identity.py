"""Which model of the family a folder holds. Needs no torch.

Told by contents first: how pictures enter, the number of networks, their shapes, and Bernini-R's own configuration.
What contents leave open (Wan2.1's two image to video models differ in nothing but their weights) is told by what the
folder says it is from (README, ``_name_or_path``), by the name of its repository in a hub's cache, or by a folder or
link that is called exactly as a repository or preset is. Any other name tells nothing: anybody may call a folder
anything. Where it is still open and matters, the caller has to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from model.config import TransformerConfig
from model.family import FAMILY, ConditionerKind, Preset
from model.files import ModelError
from model.hub import places, repository_of
from model.index import Index

README_BYTES = 64 << 10
# What a word in a name says of a model that its configuration does not.
WORDS = {
    "bernini": ("bernini-r", "bernini-r-1.3b"),
    "480p": ("wan2.1-i2v-14b-480p",),
    "720p": ("wan2.1-i2v-14b-720p",),
}
SHAPE = ("num_attention_heads", "attention_head_dim", "num_layers", "ffn_dim", "vace_layers")
SHIFT_OF_720P = 4.0  # or more, in a scheduler's file of Wan2.1's image to video, which has 3 at 480p and 5 at 720p
TITLE = re.compile(r"^#\s+(.+)$", re.MULTILINE)
ABOUT = re.compile(r"\bThis repository [^.\n]{0,300}", re.IGNORECASE)
BASE = re.compile(r"^base_model:[ \t]*(?:\n\s*-\s*)?(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Contents:
    """What the files say. ``shift`` is that of the scheduler's file, None in the layout of Wan's own releases, which
    has none; ``origin`` the ``_name_or_path`` of a transformer's configuration."""

    root: Path
    conditioner: ConditionerKind
    config: TransformerConfig
    transformers: int
    index: Index | None = None
    shift: float | None = None
    origin: str | None = None


def identify(contents: Contents, typed: Path, family: str = "") -> tuple[Preset, list[str]]:
    """Tell which model it is, and give warnings about what speaks against it.

    Args:
        typed: the folder as the caller named it. family: what the caller says that it is; "" for nothing.

    Raises:
        ModelError: the caller is wrong, or has to say because it matters and nothing else does.
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
            warnings.append(f"{contents.root}: {name} is what it is called, its files are those of {preset.name}")
    hint = next((name for name in called if preset.conditioner == "streams" and "bernini" in name.lower()), None)
    if hint and any(one.conditioner == "bernini" for one in possible):
        warnings.append(
            f"{contents.root}: {hint} is what it is called, but nothing in it says that it is a Bernini-R: it is "
            f"served as {preset.name}; give --family (ZOETROPE_FAMILY) if it is"
        )
    return preset, list(dict.fromkeys(warnings))


def _said(family: str, possible: list[Preset], root: Path) -> Preset:
    if family not in FAMILY:
        raise ModelError(f"family: {family!r} is not one of {', '.join(FAMILY)}")
    if FAMILY[family] not in possible:
        names = " or ".join(preset.name for preset in possible)
        raise ModelError(f"family: {family} is not what lies in {root}, its files are those of {names}")
    return FAMILY[family]


def _possible(contents: Contents) -> list[Preset]:
    """Every model whose pictures enter in that way, and of those the ones most like it."""
    config = contents.config
    kinds = {contents.conditioner} | ({"bernini"} if contents.conditioner == "streams" else set())
    found = [preset for preset in FAMILY.values() if preset.conditioner in kinds]
    for same in (
        lambda preset: preset.transformers == contents.transformers,
        lambda preset: (preset.config.moe is None) == (config.moe is None),
        lambda preset: (preset.config.image_dim is None) == (config.image_dim is None),
        lambda preset: (preset.config.pos_embed_seq_len is None) == (config.pos_embed_seq_len is None),
    ):
        found = [preset for preset in found if same(preset)] or found
    return found


def _by_contents(possible: list[Preset], contents: Contents) -> list[Preset]:
    if contents.index is not None and contents.index.bernini:
        possible = [preset for preset in possible if preset.conditioner == "bernini"] or possible
    shape = [getattr(contents.config, key) for key in SHAPE]
    return [preset for preset in possible if [getattr(preset.config, key) for key in SHAPE] == shape] or possible


def _sayings(contents: Contents) -> Iterator[str]:
    """What the files say that they are, the surest first: the title of the README, what it says that the repository
    holds, and what they were made from."""
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
    """Those of ``found`` that a name or sentence speaks of; all of them where it speaks of none or of several."""
    if len(found) == 1:
        return found
    if (known := _known(text)) is not None and known in found:
        return [known]
    words = set(re.split(r"[^a-z0-9.]+", text.lower()))
    told = [preset for preset in found if any(preset.name in names and word in words for word, names in WORDS.items())]
    return told if len(told) == 1 else found


def _known(text: str, whole: bool = False) -> Preset | None:
    """The model whose repository, or preset, has this name, or one within it, the longest first; ``/`` and case and
    ``-Diffusers`` make no difference."""
    name = text.lower().replace("___", ".").rpartition("/")[2].removesuffix("-diffusers")
    for known, preset in sorted(_names().items(), key=lambda item: -len(item[0])):
        inside = re.search(rf"(?<![a-z0-9]){re.escape(known)}(?![a-z0-9])", name)
        if name == known or (inside and not whole):
            return preset
    return None


def _names() -> dict[str, Preset]:
    """Lower-case names of presets, and of public repositories less their owner."""
    names = {preset.name: preset for preset in FAMILY.values()}
    for preset in FAMILY.values():
        if preset.upcycling is None:
            names[preset.weights.rpartition("/")[2].lower().removesuffix("-diffusers")] = preset
    return names


def _chosen(found: list[Preset], contents: Contents) -> Preset:
    """One of those that are left: no Bernini-R, which says what it is, and the one of the scheduler's shift."""
    found = [preset for preset in found if preset.conditioner != "bernini"] or found
    if contents.shift is not None and {preset.name for preset in found} == {*WORDS["480p"], *WORDS["720p"]}:
        return FAMILY[WORDS["480p" if contents.shift < SHIFT_OF_720P else "720p"][0]]
    first = min(found, key=lambda preset: abs(preset.config.dim - contents.config.dim))
    if all(preset.sampling == first.sampling for preset in found):
        return first
    names = " or ".join(preset.name for preset in found)
    raise ModelError(
        f"{contents.root}: its files are those of {names} alike, which are sampled in different ways, and nothing says "
        "which: name it with --family (ZOETROPE_FAMILY)"
    )

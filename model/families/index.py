"""Read ``model_index.json``, in which a folder in diffusers' layout names its components. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoetrope.model.inspection.files import ModelError, check_directory, read_json

# Unsupported pipelines, and why.
OTHERS = {
    "WanCausalDMDPipeline": "it is a causal distill, whose cache of earlier frames is not supported",
    "WanAnimatePipeline": "it animates a character after poses and faces, which no task here gives it",
    "LucyEditPipeline": "its networks take the clip to edit as channels, which is not supported",
    "BerniniPipeline": "its planner is not supported, only the renderer is (Bernini-R)",
}


@dataclass(frozen=True)
class Components:
    """The components of a family's folders, with the classes that each may have; empty: any class."""

    required: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Index:
    """What a folder says it holds.

    Attributes:
        path: the file to name in errors.
        components: class of each named component, None if the index says there is none; empty if it names none at
            all, in which case the folders decide.
        origins: repositories that it names as its own or as its base.
        declared: the family that identifies itself by a ``config.json`` or pipeline of its own; "" for none.
    """

    path: Path
    class_name: str | None
    components: Mapping[str, str | None]
    boundary: Any = None
    expand_timesteps: bool = False
    origins: tuple[str, ...] = ()
    declared: str = ""

    @property
    def root(self) -> Path:
        return self.path.parent

    def has(self, component: str) -> bool:
        """Tell whether there is a component: by the index, or by its folder if the index names none at all."""
        if self.components:
            return self.components.get(component) is not None
        return (self.root / component).is_dir()


def read_model_index(path: Path, pipelines: Sequence[str]) -> Index:
    """Read a ``model_index.json``.

    Raises:
        ModelError: it is missing or unreadable, or its class is not in ``pipelines``.
    """
    value = read_json(path)
    name = value.get("_class_name")
    if name is not None and not (isinstance(name, str) and name in pipelines):
        why = OTHERS.get(str(name), "")
        raise ModelError(
            f"{path}: _class_name is {name!r}, expected one of {', '.join(pipelines)}{': ' if why else ''}{why}"
        )
    return Index(
        path,
        name,
        {key: _class_of(path, key, entry) for key, entry in value.items() if isinstance(entry, list)},
        value.get("boundary_ratio"),
        bool(value.get("expand_timesteps")),
        tuple(text for key in ("_name_or_path", "base_model") if isinstance(text := value.get(key), str)),
    )


def check_index(index: Index, components: Components) -> list[str]:
    """Check that every component that is named or required exists, and that its class is supported.

    Returns:
        Warnings: components that are not used.

    Raises:
        ModelError: names the component, or the class.
    """
    named = {name: kind for name, kind in index.components.items() if kind is not None}
    for name in components.required:
        if index.components and name not in named:
            raise ModelError(f"{index.path}: names no {name}, which every model of the family has")
        check_directory(index.root / name)
    for name in named:
        check_directory(index.root / name, f", {index.path.name} names it")
    if index.components and "transformer_2" not in named and (index.root / "transformer_2").is_dir():
        raise ModelError(f"{index.root / 'transformer_2'}: is there, but {index.path.name} does not name it")
    known = {**components.required, **components.optional}
    for name, kind in named.items():
        allowed = known.get(name)
        if allowed and kind not in allowed:
            raise ModelError(f"{index.path}: {name} is a {kind}, expected one of {', '.join(allowed)}")
    unused = sorted(named.keys() - known.keys())
    return [f"{index.path}: {name} ({named[name]}) is not used" for name in unused]


def check_same_class(index: Index, component: str, config: Mapping[str, Any]) -> None:
    """Raise ModelError if a component's own configuration names another class than the index."""
    named, own = index.components.get(component), config.get("_class_name")
    if named is not None and own is not None and named != own:
        raise ModelError(f"{index.path}: {component} is a {named}, its own configuration says {own}")


def _class_of(path: Path, key: str, entry: list[Any]) -> str | None:
    """Return the class in ``[library, class]``; None for ``[null, null]``."""
    if len(entry) < 2 or not all(part is None or isinstance(part, str) for part in entry[:2]):
        raise ModelError(f"{path}: {key} is {entry!r}, expected a library and a class")
    kind: str | None = entry[1]
    return kind

"""Find each component of a checkpoint directory, its configuration and its weights, in either layout. Needs no torch.

Layouts: diffusers' (`model.families.index` and a folder for each component), that of Wan's own releases
(`model.catalog.original_layout`), and single files (`model.catalog.single_files`). All give configurations with
diffusers' field names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zoetrope.model.catalog.original_layout import (
    CLIP_STEM,
    ORIGINAL_PAIR,
    TEXT_STEM,
    is_original,
    one_of,
    original_files,
    read_original,
)
from zoetrope.model.catalog.parts import Parts, Source
from zoetrope.model.catalog.single_files import FileKind, SingleFile, read_single
from zoetrope.model.families import FAMILIES
from zoetrope.model.families.index import OTHERS, Components, Index, check_same_class, read_model_index
from zoetrope.model.inspection.fields import ConfigFieldError, Fields, limited
from zoetrope.model.inspection.files import DIFFUSERS_STEM, ModelError, read_json, weight_files

RANDOM_NAME = "random_weights.json"


@dataclass(frozen=True, kw_only=True)
class RandomWeights(Fields):
    """The contents of `RANDOM_NAME`, which stands in for a transformer's weights: they are drawn at load time (see
    `model.checkpoints.random_weights`). Such a model is as large and as slow as a real one; its clips are noise."""

    seed: int = limited(ge=0, lt=2**63)
    std: float = limited(gt=0)


@dataclass(frozen=True)
class Component:
    """One network of a checkpoint. ``config`` has diffusers' field names; empty if only the weights show the shape.
    ``directory``: its folder, or its file. ``random``: it has no weight files; its weights are drawn. ``single``: what
    its file holds, if it is a file."""

    directory: Path
    config: dict[str, Any]
    original: bool
    find_files: Callable[[Path], list[Path]]
    random: RandomWeights | None = None
    single: SingleFile | None = None

    @property
    def files(self) -> list[Path]:
        """Find the weight files; none if the weights are random. Raises ModelError if one is missing. A gateway, which
        has no weights, never asks."""
        return self.find_files(self.directory) if self.random is None else []

    @property
    def class_name(self) -> str:
        return str(self.config.get("_class_name"))

    @property
    def config_file(self) -> Path:
        """The file to name where its configuration is wrong."""
        return self.directory / "config.json" if self.single is None else self.directory

    @property
    def prefix(self) -> str:
        """What all names in its files begin with."""
        return "" if self.single is None else self.single.prefix

    def rename(self, original_name: Callable[[str], str]) -> Callable[[str], str]:
        """Return the map from names in the files to those of the network; ``original_name`` is that of the makers'
        releases."""
        if self.single is not None:
            return self.single.rename
        return original_name if self.original else str


def read_index(root: Path) -> Index:
    """Read what a folder in diffusers' layout says it holds.

    Raises:
        ModelError: it has no index, or names a pipeline that is not served.
    """
    path = root / "model_index.json"
    if not path.exists() and (root / "config.json").exists():
        return _read_own_index(root / "config.json")
    index = read_model_index(path, list(dict.fromkeys(name for family in FAMILIES for name in family.pipelines)))
    for family in FAMILIES:
        own = family.own_index
        if own is not None and (index.class_name in family.pipelines or _model_type(root) == own.model_type):
            return replace(index, declared=family.name)
    return index


def pipeline_of(source: Source) -> str | None:
    """Return the pipeline that a folder's index names; None if it has no index. Raises ModelError as `read_index`."""
    return read_index(root_of(source)).class_name if has_scheduler(source) else None


def components_of(index: Index) -> Components:
    """Return the components that a folder with this index must have."""
    named = (family for family in FAMILIES if index.class_name in family.pipelines)
    return next(named, FAMILIES[0]).components


def network_classes() -> tuple[str, ...]:
    """List the supported transformer classes, by their ``_class_name``."""
    return tuple(dict.fromkeys(name for family in FAMILIES for name in family.networks))


def _read_own_index(path: Path) -> Index:
    """Read the index of a family that has its own file instead of ``model_index.json``."""
    value = read_json(path)
    kind, name = value.get("model_type"), value.get("_class_name")
    known = [(family, family.own_index) for family in FAMILIES if family.own_index is not None]
    for family, own in known:
        if kind == own.model_type:
            return replace(own.read(path), declared=family.name)
    said = f"_class_name is {name!r}" if name is not None else f"model_type is {kind!r}"
    expected = "".join(f", or {own.model_type} for {own.title}" for _, own in known)
    why = f": {OTHERS['BerniniPipeline']}" if kind == "bernini" else ""
    raise ModelError(
        f"{path}: {said}, expected WanModel or VaceWanModel{expected}, or a model_index.json beside it{why}"
    )


def _model_type(root: Path) -> object:
    path = root / "config.json"
    return read_json(path).get("model_type") if path.exists() else None


def has_scheduler(source: Source) -> bool:
    """Tell whether a model has a scheduler's file; others mean that of Wan's own code."""
    if isinstance(source, Parts):
        return not source.is_file and not is_original(source.base)
    return not is_original(source)


def root_of(source: Source) -> Path:
    """Return the folder of a model, or the file of its transformer."""
    return source.base if isinstance(source, Parts) else source


def read_transformers(source: Source) -> tuple[Component, ...]:
    """Read the transformer, or the two noise experts, the one for high noise first.

    Raises:
        ModelError: a file is missing or unreadable, or the class is not supported.
    """
    if isinstance(source, Parts) and source.is_file:
        return tuple(_single(path, "transformer") for path in source.transformers())
    if isinstance(source, Parts) and source.load.model_low:
        raise ModelError(f"model-low: {source.base} is a folder, which names both experts itself")
    root = root_of(source)
    if is_original(root):
        paired = (root / ORIGINAL_PAIR[0]).is_dir()
        folders = [root / name for name in ORIGINAL_PAIR] if paired else [root]
        return tuple(Component(path, read_original(path, paired), True, original_files) for path in folders)
    index = read_index(root)
    parts = []
    for name in ("transformer", "transformer_2") if index.has("transformer_2") else ("transformer",):
        directory = root / name
        config = _read_config(directory, network_classes())
        check_same_class(index, name, config)
        parts.append(Component(directory, config, False, weight_files, read_random(directory)))
    return tuple(parts)


def read_autoencoder(source: Source) -> Component:
    """Read the autoencoder. Raises ModelError as `read_transformers`."""
    root = _place(source, "vae")
    if not isinstance(root, Path):
        return root
    if is_original(root):
        wan22 = any(root.glob("Wan2.2_VAE.*"))
        find = partial(one_of, stem="Wan2.2_VAE" if wan22 else "Wan2.1_VAE")
        config = {"_class_name": "AutoencoderKLWan", "z_dim": 48 if wan22 else 16}
        config |= {"scale_factor_spatial": 16 if wan22 else 8, "scale_factor_temporal": 4}
        return Component(root, config, True, find)
    index = read_index(root)
    config = _read_config(root / "vae", components_of(index).required["vae"])
    check_same_class(index, "vae", config)
    return Component(root / "vae", config, False, weight_files)


def read_text_encoder(source: Source) -> Component:
    """Read the UMT5 encoder. Raises ModelError as `read_transformers`."""
    root = _place(source, "text_encoder")
    if not isinstance(root, Path):
        return root
    if is_original(root):
        return Component(root, {}, True, partial(one_of, stem=TEXT_STEM))
    directory = root / "text_encoder"
    config = read_json(directory / "config.json")
    _check_plain(directory / "config.json", config)
    _check_model_type(directory / "config.json", config, "umt5")
    return Component(directory, config, False, partial(weight_files, stem="model", pickle_stem="pytorch_model"))


def read_image_encoder(source: Source) -> Component:
    """Read CLIP's vision tower, for networks that attend to its tokens. Raises ModelError as `read_transformers`."""
    root = _place(source, "image_encoder")
    if not isinstance(root, Path):
        return root
    if is_original(root):
        return Component(root, {}, True, partial(one_of, stem=CLIP_STEM))
    directory = root / "image_encoder"
    config = read_json(directory / "config.json")
    _check_plain(directory / "config.json", config)
    _check_model_type(directory / "config.json", config, "clip_vision_model")
    return Component(directory, config, False, partial(weight_files, stem="model", pickle_stem="pytorch_model"))


def tokenizer_directory(source: Source) -> Path | None:
    """Return the tokenizer's folder; None if it is in the text encoder's file.

    Raises:
        ModelError: there is none.
    """
    root = root_of(source)
    if isinstance(source, Parts):
        if (named := source.place("tokenizer")) is not None:
            return named
        place = source.place("text_encoder")
        if place is not None and place.is_dir():
            root = place
        elif place is not None or source.is_file:
            single = read_text_encoder(source).single
            if single is not None and single.has_tokenizer:
                return None
            if source.is_file:
                raise ModelError(
                    f"tokenizer: {place} has no tokenizer in it: give the folder of UMT5's, --tokenizer DIR (google/"
                    "umt5-xxl, or the tokenizer folder of any Wan checkpoint)"
                )
    return root / "google" / "umt5-xxl" if is_original(root) else root / "tokenizer"


def _place(source: Source, option: FileKind) -> Path | Component:
    """Return the folder of the checkpoint that has a component, or the component if it is a single file.

    Raises:
        ModelError: nothing says where it is, or it is not there.
    """
    if not isinstance(source, Parts):
        return source
    named = source.place(option)
    if named is None:
        if source.is_file:
            name = option.replace("_", "-")
            raise ModelError(
                f"{name}: must be given, {source.base.name} holds the transformer alone: --{name} FILE, or a folder "
                "that has one"
            )
        return source.base
    if named.is_dir() and (is_original(named) or (named / "model_index.json").exists()):
        return named
    if named.is_dir():
        raise ModelError(f"{option.replace('_', '-')}: {named} must be a file, or a folder of a whole checkpoint")
    return _single(named, option)


def _single(path: Path, kind: FileKind) -> Component:
    found = read_single(path, kind)
    return Component(path, found.config, kind != "transformer", lambda _: list(found.files), single=found)


def read_random(directory: Path) -> RandomWeights | None:
    """Read how a component's weights are to be drawn; None if they are in files.

    Raises:
        ModelError: the marker is damaged, or there are weights as well, so that it is unclear which are meant.
    """
    path = directory / RANDOM_NAME
    if not path.exists():
        return None
    if any(directory.glob(f"{DIFFUSERS_STEM}*")):
        raise ModelError(f"{path}: lies beside weights, remove one or the other")
    value = read_json(path)
    try:
        return RandomWeights.model_validate(value)
    except ConfigFieldError as error:
        raise ModelError(f"{path}: {error}") from None


def _read_config(directory: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    path = directory / "config.json"
    config = read_json(path)
    if config.get("_class_name") not in classes:
        raise ModelError(f"{path}: _class_name is {config.get('_class_name')!r}, expected one of {', '.join(classes)}")
    _check_plain(path, config)
    return config


def _check_plain(path: Path, config: dict[str, Any]) -> None:
    """Raise ModelError if the weights are quantised: read as they are, they would be noise."""
    if (how := config.get("quantization_config")) is not None:
        method = how.get("quant_method") or how.get("quant_type") if isinstance(how, dict) else how
        raise ModelError(f"{path}: quantization_config is there ({method}): quantised weights are not supported")


def _check_model_type(path: Path, config: dict[str, Any], wanted: str) -> None:
    kind, architectures = config.get("model_type", wanted), config.get("architectures")
    if kind != wanted:
        raise ModelError(f"{path}: model_type is {kind!r}, expected {wanted!r}")
    prefix = {"umt5": "UMT5", "clip_vision_model": "CLIPVision"}[wanted]
    if isinstance(architectures, list) and not any(str(name).startswith(prefix) for name in architectures):
        raise ModelError(f"{path}: architectures are {architectures!r}, expected a {prefix} one")

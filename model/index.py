"""What a folder in diffusers' layout says of itself: ``model_index.json``, or Bernini-R's ``config.json``. No torch.

Bernini-R (ByteDance/Bernini-R-Diffusers) has diffusers' components without an index: its ``config.json`` names the
renderer, and is what tells it from Wan2.2-T2V-A14B, whose networks have the same configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.files import ModelError, check_directory, read_json

COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
OPTIONAL_COMPONENTS = ("transformer_2", "image_encoder", "image_processor")
TRANSFORMER_CLASSES = ("WanTransformer3DModel", "WanVACETransformer3DModel", "ZoetropeTransformer3DModel")
AUTOENCODER_CLASSES = ("AutoencoderKLWan", "LinearVideoAutoencoder")
BERNINI = "BerniniRendererPipeline"
# Pipelines, and how pictures enter the models that they run (`model.family.ConditionerKind`).
PIPELINES: dict[str, tuple[str, ...]] = {
    "WanPipeline": ("streams", "first_latent"),
    "WanVideoToVideoPipeline": ("streams",),  # WanPipeline's parts; it is served for what the two share
    "WanImageToVideoPipeline": ("channels", "first_latent"),
    "WanVACEPipeline": ("vace",),
    BERNINI: ("streams",),
}
OTHERS = {
    "WanDMDPipeline": "it is a few-step distill with a schedule and guidance of its own, which is not run",
    "WanAnimatePipeline": "it animates a character after poses and faces, which no task here gives it",
    "LucyEditPipeline": "its networks take the clip to edit as channels, which is not run",
    "BerniniPipeline": "its planner is not run, the renderer alone is (Bernini-R)",
}
CLASSES: dict[str, tuple[str, ...]] = {
    "transformer": TRANSFORMER_CLASSES,
    "transformer_2": TRANSFORMER_CLASSES,
    "vae": AUTOENCODER_CLASSES,
    "text_encoder": ("UMT5EncoderModel",),
    "image_encoder": ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
    "image_processor": ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"),
}
RENDERER = "bernini_renderer"


@dataclass(frozen=True)
class Index:
    """``components`` are the classes of those that are named, None where the index says that there is none; empty
    where it names none at all, and the folders have to tell. ``path`` is the file to name in errors."""

    path: Path
    class_name: str | None
    components: Mapping[str, str | None]
    boundary: Any = None
    expand_timesteps: bool = False
    origins: tuple[str, ...] = ()  # repositories that it says it is, or was made, from
    bernini: bool = False  # Bernini-R, by its own word

    @property
    def root(self) -> Path:
        return self.path.parent

    def has(self, component: str) -> bool:
        """Tell whether a component is there by the index, or by its folder where the index names none."""
        if self.components:
            return self.components.get(component) is not None
        return (self.root / component).is_dir()


def read_index(root: Path) -> Index:
    """Read what a folder says that it is.

    Raises:
        ModelError: it says nothing, or is of a pipeline that is not served.
    """
    path = root / "model_index.json"
    if not path.exists() and (other := _bernini(root)) is not None:
        return other
    value = read_json(path)
    name = value.get("_class_name")
    if name is not None and not (isinstance(name, str) and name in PIPELINES):
        why = OTHERS.get(str(name), "")
        raise ModelError(
            f"{path}: _class_name is {name!r}, expected one of {', '.join(PIPELINES)}{': ' if why else ''}{why}"
        )
    return Index(
        path,
        name,
        {key: _class_of(path, key, entry) for key, entry in value.items() if isinstance(entry, list)},
        value.get("boundary_ratio"),
        bool(value.get("expand_timesteps")),
        tuple(text for key in ("_name_or_path", "base_model") if isinstance(text := value.get(key), str)),
        name == BERNINI or _is_renderer(root / "config.json"),
    )


def check_index(index: Index) -> list[str]:
    """Check that every component is there that the index names and that is needed, and is of a class that is run.

    Returns:
        Warnings: components that nothing here uses.

    Raises:
        ModelError: names the component, or the class.
    """
    named = {name: kind for name, kind in index.components.items() if kind is not None}
    for name in COMPONENTS:
        if index.components and name not in named:
            raise ModelError(f"{index.path}: names no {name}, which every model of the family has")
        check_directory(index.root / name)
    for name in named:
        check_directory(index.root / name, f", {index.path.name} names it")
    if index.components and "transformer_2" not in named and (index.root / "transformer_2").is_dir():
        raise ModelError(f"{index.root / 'transformer_2'}: is there, but {index.path.name} does not name it")
    for name, kind in named.items():
        allowed = CLASSES.get(name)
        if allowed is not None and kind not in allowed:
            raise ModelError(f"{index.path}: {name} is a {kind}, expected one of {', '.join(allowed)}")
    unused = sorted(named.keys() - {*COMPONENTS, *OPTIONAL_COMPONENTS})
    return [f"{index.path}: {name} ({named[name]}) is not used" for name in unused]


def check_same_class(index: Index, component: str, config: Mapping[str, Any]) -> None:
    """Raises ModelError where a component's own configuration names another class than the index does."""
    named, own = index.components.get(component), config.get("_class_name")
    if named is not None and own is not None and named != own:
        raise ModelError(f"{index.path}: {component} is a {named}, its own configuration says {own}")


def _class_of(path: Path, key: str, entry: list[Any]) -> str | None:
    """Of ``[library, class]``, or of ``[null, null]`` for none."""
    if len(entry) < 2 or not all(part is None or isinstance(part, str) for part in entry[:2]):
        raise ModelError(f"{path}: {key} is {entry!r}, expected a library and a class")
    kind: str | None = entry[1]
    return kind


def _bernini(root: Path) -> Index | None:
    """Read Bernini-R's ``config.json``. Raises ModelError where there is one of something else that is not served."""
    path = root / "config.json"
    if not path.exists():
        return None
    value = read_json(path)
    kind, name = value.get("model_type"), value.get("_class_name")
    if kind != RENDERER:
        said = f"_class_name is {name!r}" if name is not None else f"model_type is {kind!r}"
        why = f": {OTHERS['BerniniPipeline']}" if kind == "bernini" else ""
        raise ModelError(
            f"{path}: {said}, expected WanModel or VaceWanModel, or {RENDERER} for Bernini-R, or a model_index.json "
            f"beside it{why}"
        )
    for key, wanted in (("use_src_id_rotary_emb", True), ("use_unipc", True), ("skip_transformer_1", False)):
        if value.get(key, wanted) is not wanted:
            raise ModelError(f"{path}: {key} is {value[key]!r}, expected {wanted}: Bernini-R is run in no other way")
    if not (root / "transformer").is_dir():
        raise ModelError(f"{root / 'transformer'}: the directory is missing, Bernini-R is served as diffusers' folders")
    second = None if value.get("skip_transformer_2") else "WanTransformer3DModel"
    components = {
        "transformer": "WanTransformer3DModel",
        "transformer_2": second,
        "vae": "AutoencoderKLWan",
        "text_encoder": "UMT5EncoderModel",
        "tokenizer": "T5Tokenizer",
        "scheduler": "UniPCMultistepScheduler",
    }
    return Index(path, BERNINI, components, value.get("switch_dit_boundary") if second else None, bernini=True)


def _is_renderer(path: Path) -> bool:
    return path.exists() and read_json(path).get("model_type") == RENDERER

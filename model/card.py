"""What a checkpoint directory can do, read from its configuration files. Needs no torch."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.config import TransformerConfig
from model.directory import (
    Component,
    ModelError,
    is_original,
    read_autoencoder,
    read_image_encoder,
    read_json,
    read_text_encoder,
    read_transformers,
)
from model.family import FAMILY, ConditionerKind, Preset
from model.identity import Contents, identify
from model.index import PIPELINES, Index, check_index, check_same_class, read_index
from model.schedulers import SchedulerError, check_scheduler, shift_key, unknown_keys
from model.tasks import MAX_DURATION_SECONDS, TASK_KINDS, ModelCard, short

# What a family was trained for, by the way its pictures and clips enter.
FAMILY_TASKS: dict[ConditionerKind, tuple[str, ...]] = {
    "streams": ("text_to_video",),
    "bernini": ("text_to_video", "grid_to_video", "reference_to_video", "edit_video"),
    "first_latent": ("text_to_video", "image_to_video"),
    "channels": ("image_to_video", "first_last_frame"),
    "vace": tuple(TASK_KINDS),
}
OVERLAP_FRAMES: dict[ConditionerKind, int] = {"streams": 5, "bernini": 5, "first_latent": 1, "channels": 1, "vace": 5}
MAX_TEXT_TOKENS = 512
RANDOM_SUFFIX = "-random-weights"  # of a model's name, so that nobody takes its clips or figures for a trained one's
SCHEDULER_FILE = Path("scheduler") / "scheduler_config.json"
# Keys of a transformer's configuration that shape nothing: tables are made as long as they are needed.
UNSHAPING = {"rope_max_seq_len", "model_type"}


def read_card(directory: Path, name: str, typed: Path | None = None, family: str = "") -> ModelCard:
    """Read a checkpoint's configuration files, in either layout, and check them against each other.

    Args:
        name: of the model. typed: the folder as the caller named it, whose names may tell what it holds; the directory
            where left out. family: what the caller says that it holds, see `model.identity`.

    Raises:
        ModelError: a file is missing or unreadable, or says something that we do not run.
    """
    index = None if is_original(directory) else read_index(directory)
    warnings = [] if index is None else check_index(index)
    config, parts = _transformers(directory)
    vae = read_autoencoder(directory).config
    where = directory / "vae" / "config.json"
    z_dim = _whole(vae, "z_dim", None, range(1, 1_025), where)
    spatial = _whole(vae, "scale_factor_spatial", 8, (1, 2, 4, 8, 16, 32), where)
    temporal = _whole(vae, "scale_factor_temporal", 4, (1, 2, 4, 8), where)
    for key in ("latents_mean", "latents_std"):
        _check_statistics(vae, key, z_dim, where)
    kind = _conditioner(directory, index, config, parts[0], z_dim, temporal)
    _check_encoders(directory, index, config)
    scheduler = None if index is None else _scheduler(index, warnings)
    shift = None if scheduler is None else _shift_of(scheduler)
    origin = parts[0].config.get("_name_or_path")
    contents = Contents(directory, kind, config, len(parts), index, shift, origin if isinstance(origin, str) else None)
    preset, doubts = identify(contents, directory if typed is None else typed, family)
    warnings += [*doubts, *_unknown(parts)]
    sampling = FAMILY["wan2.2-ti2v-5b"].sampling if spatial == 16 else preset.sampling
    tasks = FAMILY_TASKS[preset.conditioner]
    if kind == "channels" and config.image_dim is not None:  # trained with one picture, or with two
        tasks = ("first_last_frame",) if config.pos_embed_seq_len is not None else ("image_to_video",)
    chained = tasks not in (("text_to_video",), ("first_last_frame",))
    usual = preset.sampling.shift
    note = "Wan's own code"
    if scheduler is not None:
        note = "" if shift is None else "scheduler_config.json"
        note += f"; Wan's own code takes {usual:g}" if shift not in (None, usual) else ""
    return ModelCard(
        name=name + (RANDOM_SUFFIX if any(part.random for part in parts) else ""),
        directory=str(directory),
        tasks=tasks,
        native_sizes=(),
        size_multiple=spatial * config.patch_size[1],
        spatial=spatial,
        temporal=temporal,
        latent_channels=z_dim,
        fps=sampling.fps,
        default_frames=sampling.frames,
        max_frames=int(MAX_DURATION_SECONDS * sampling.fps) + 1 if chained else sampling.frames,
        default_steps=sampling.steps,
        default_guidance=sampling.guidance,
        max_text_tokens=MAX_TEXT_TOKENS,
        segment_frames=sampling.frames if chained else 0,
        overlap_frames=OVERLAP_FRAMES[preset.conditioner] if chained else 0,
        conditioner=preset.conditioner if preset.conditioner == "bernini" else kind,
        family=preset.name,
        warnings=tuple(warnings),
        boundary=_boundary(directory, index, preset) if len(parts) == 2 else None,
        default_guidance_low=sampling.guidance_low if len(parts) == 2 else None,
        default_size=sampling.size,
        trained_sizes=sampling.trained_sizes,
        default_negative_prompt=sampling.negative_prompt,
        default_flow_shift=usual if scheduler is None else shift,
        flow_shift_note=note,
    )


def _whole(config: dict[str, Any], key: str, default: int | None, allowed: Container[int], where: Path) -> int:
    value = config.get(key, default)
    if type(value) is not int or value not in allowed:
        raise ModelError(f"{where}: {key} is {short(value)}, which is no autoencoder's of the family")
    return value


def _check_statistics(config: dict[str, Any], key: str, z_dim: int, where: Path) -> None:
    """Check what latents are shifted and scaled by: one number a channel, deviations above 0."""
    values = config.get(key)
    if values is None:
        return
    good = isinstance(values, list) and len(values) == z_dim
    good = good and all(type(x) in (int, float) and -1e6 < x < 1e6 and (x > 0 or key != "latents_std") for x in values)
    if not good:
        numbers = "numbers above 0" if key == "latents_std" else "numbers"
        raise ModelError(f"{where}: {key} is {short(values)}, expected {z_dim} {numbers}")


def transformer_config(component: Component) -> TransformerConfig:
    """Raises ModelError that names the key at fault."""
    try:
        return TransformerConfig.model_validate(component.config)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        key = ".".join(map(str, item["loc"]))
        raise ModelError(f"{component.directory / 'config.json'}: {key + ': ' if key else ''}{item['msg']}") from None


def scheduler_config(card: ModelCard) -> dict[str, Any]:
    """The checkpoint's own; Wan's releases have none and mean UniPC on flow sigmas, shifted as their code does."""
    root = Path(card.directory)
    if not is_original(root):
        return read_json(root / SCHEDULER_FILE)
    return {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": card.default_flow_shift,
    }


def _scheduler(index: Index, warnings: list[str]) -> dict[str, Any]:
    """Read and check the scheduler's file; keys that its class does not have become warnings.

    Raises:
        ModelError: it is not one that we run.
    """
    path = index.root / SCHEDULER_FILE
    config = read_json(path)
    check_same_class(index, "scheduler", config)
    try:
        check_scheduler(config)
    except SchedulerError as error:
        raise ModelError(f"{path}: {error}") from None
    if names := unknown_keys(config):
        warnings.append(f"{path}: {', '.join(names)} is not known to {config['_class_name']} and is ignored")
    return config


def _shift_of(scheduler: dict[str, Any]) -> float | None:
    key = shift_key(scheduler)
    return None if key is None else float(scheduler.get(key, 1.0))  # 1: diffusers' default


def _unknown(parts: tuple[Component, ...]) -> list[str]:
    """Warnings about keys of a transformer's configuration that nothing here reads."""
    warnings = []
    for part in parts:
        known = {*TransformerConfig.model_fields, *UNSHAPING}
        names = sorted(key for key in part.config.keys() - known if not key.startswith("_"))
        if names:
            warnings.append(f"{part.directory / 'config.json'}: {', '.join(names)} is not known and is ignored")
    return warnings


def _transformers(root: Path) -> tuple[TransformerConfig, tuple[Component, ...]]:
    parts = read_transformers(root)
    config = transformer_config(parts[0])
    for other in parts[1:]:
        if transformer_config(other) != config:
            raise ModelError(f"{other.directory / 'config.json'}: differs from {parts[0].directory / 'config.json'}")
    return config, parts


def _conditioner(
    root: Path, index: Index | None, config: TransformerConfig, part: Component, z_dim: int, temporal: int
) -> ConditionerKind:
    """How pictures enter, told by channels: those of the latents alone, or with a mask and the frames given beside."""
    if config.out_channels != z_dim or config.in_channels not in (z_dim, 2 * z_dim + temporal):
        raise ModelError(
            f"{root}: the transformer takes {config.in_channels} channels and gives {config.out_channels}, the "
            f"autoencoder has {z_dim}; expected {z_dim} or {2 * z_dim + temporal} to take and {z_dim} to give"
        )
    kind: ConditionerKind = "streams"
    if config.vace_layers:
        kind = "vace"
    elif config.in_channels != z_dim:
        kind = "channels"
    elif part.config.get("model_type") == "ti2v" or (index is not None and index.expand_timesteps):
        kind = "first_latent"
    if index is not None and index.class_name is not None and kind not in PIPELINES[index.class_name]:
        raise ModelError(
            f"{index.path}: _class_name is {index.class_name}, but the transformer, with {config.in_channels} channels "
            f"to take{' and hints' if kind == 'vace' else ''}, is one of "
            f"{' or '.join(name for name, kinds in PIPELINES.items() if kind in kinds)}"
        )
    return kind


def _check_encoders(root: Path, index: Index | None, config: TransformerConfig) -> None:
    """That what the encoders give is what the transformer takes.

    Raises:
        ModelError: a width differs, or the image encoder that it needs is missing.
    """
    width = read_text_encoder(root).config.get("d_model", config.text_dim)
    if width != config.text_dim:
        raise ModelError(
            f"{root / 'text_encoder' / 'config.json'}: d_model is {width}, the transformer's text_dim is "
            f"{config.text_dim}"
        )
    if config.image_dim is None:
        return
    if index is not None and not index.has("image_encoder"):
        raise ModelError(f"{index.root / 'image_encoder'}: is missing, the transformer's image_dim needs it")
    width = read_image_encoder(root).config.get("hidden_size", config.image_dim)
    if width != config.image_dim:
        raise ModelError(
            f"{root / 'image_encoder' / 'config.json'}: hidden_size is {width}, the transformer's image_dim is "
            f"{config.image_dim}"
        )


def _boundary(root: Path, index: Index | None, preset: Preset) -> float:
    """Read only where there are two noise experts: converters also leave it in checkpoints of one."""
    value = None if index is None else index.boundary
    if value is None:
        value = preset.sampling.boundary
    where = root if index is None else index.path
    if value is None:
        raise ModelError(f"{where}: boundary_ratio is missing, which says where the second transformer takes over")
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise ModelError(f"{where}: boundary_ratio is {value!r}, must be between 0 and 1")
    return float(value)

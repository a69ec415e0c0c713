"""Read from its configuration files what a checkpoint directory can do. Needs no torch."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from zoetrope.model.caching.ratios import lists_of
from zoetrope.model.catalog.checkpoint_layout import (
    Component,
    components_of,
    has_scheduler,
    read_autoencoder,
    read_image_encoder,
    read_index,
    read_text_encoder,
    read_transformers,
    root_of,
)
from zoetrope.model.catalog.identity import identify, possible_families
from zoetrope.model.catalog.parts import Parts, Source, source, source_of
from zoetrope.model.catalog.profiles import NONE
from zoetrope.model.catalog.schedulers import REFUSED, SchedulerError, check_scheduler, shift_key, unknown_keys
from zoetrope.model.families import FAMILIES, PRESETS, family_of
from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.families.family import Contents, Preset, Sampling
from zoetrope.model.families.index import Index, check_index, check_same_class
from zoetrope.model.inspection.fields import ConfigFieldError
from zoetrope.model.inspection.files import ModelError, read_json
from zoetrope.model.inspection.shown import shown
from zoetrope.model.request.load_options import DEFAULT, LoadOptions
from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.tasks import MAX_DURATION_SECONDS, ModelCard

MAX_TEXT_TOKENS = 512
RANDOM_SUFFIX = (
    "-random-weights"  # of a model's name, so that nobody mistakes its clips or figures for those of a trained model
)
DISTILLED = "WanDMDPipeline"  # in which FastVideo's distills sample by their profile, whatever their scheduler
SCHEDULER_FILE = Path("scheduler") / "scheduler_config.json"


def read_card(directory: Path, name: str, typed: Path | None = None, load: LoadOptions = DEFAULT) -> ModelCard:
    """Read a checkpoint's configuration files, in either layout, and check them against each other; of a single file,
    the headers.

    Args:
        directory: its folder, or its transformer's file. name: the model's name. typed: the place as the caller named
            it, which may show what it holds; by default the directory. load: names the preset that the caller says it
            holds, see `model.catalog.identity`, components at other places, and the profile: one decides the schedule,
            so that the folder's own need not be supported.

    Raises:
        ModelError: a file is missing or unreadable, or asks for something unsupported.
    """
    place = source(directory, load)
    index = read_index(directory) if has_scheduler(place) else None
    warnings = [] if index is None else check_index(index, components_of(index))
    config, parts = _transformers(place)
    autoencoder = read_autoencoder(place)
    vae, where = autoencoder.config, autoencoder.config_file
    z_dim = _whole(vae, "z_dim", None, range(1, 1_025), where)
    spatial = _whole(vae, "scale_factor_spatial", 8, (1, 2, 4, 8, 16, 32), where)
    temporal = _whole(vae, "scale_factor_temporal", 4, (1, 2, 4, 8), where)
    for key in ("latents_mean", "latents_std"):
        _check_statistics(vae, key, z_dim, where)
    _check_channels(directory, config, z_dim, temporal)
    _check_encoders(place, index, config)
    few_steps = load.profile not in ("", NONE) or (index is not None and index.class_name == DISTILLED)
    scheduler = None if index is None else _scheduler(index, warnings, few_steps)
    shift = None if scheduler is None else _shift_of(scheduler)
    _check_pair(place, config, parts)
    contents = _contents(directory, config, parts, index, shift)
    _check_pipeline(contents)
    preset, doubts = identify(contents, directory if typed is None else typed, load.family)
    own = family_of(preset.name)
    warnings += [*doubts, *_unknown(parts)]
    sampling = _sampling(preset, spatial)
    tasks = own.tasks(config)
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
        overlap_frames=own.overlap_frames if chained else 0,
        conditioner=own.conditioner,
        ends_with_frame=own.ends_with_frame,
        reference_clips=own.reference_clips,
        family=preset.name,
        warnings=tuple(warnings),
        boundary=_boundary(directory, index, preset) if len(parts) == 2 else None,
        default_guidance_low=sampling.guidance_low if len(parts) == 2 else None,
        default_size=sampling.size,
        trained_sizes=sampling.trained_sizes,
        default_negative_prompt=sampling.negative_prompt,
        default_flow_shift=usual if scheduler is None else shift,
        flow_shift_note=note,
        step_ratios=lists_of(directory, preset.name),
    )


def _whole(config: dict[str, Any], key: str, default: int | None, allowed: Container[int], where: Path) -> int:
    value = config.get(key, default)
    if type(value) is not int or value not in allowed:
        raise ModelError(f"{where}: {key} is {short(value)}, which no supported autoencoder has")
    return value


def _check_statistics(config: dict[str, Any], key: str, z_dim: int, where: Path) -> None:
    """Check the statistics of the latents: one number per channel, deviations above 0."""
    values = config.get(key)
    if values is None:
        return
    good = isinstance(values, list) and len(values) == z_dim
    good = good and all(type(x) in (int, float) and -1e6 < x < 1e6 and (x > 0 or key != "latents_std") for x in values)
    if not good:
        numbers = "numbers above 0" if key == "latents_std" else "numbers"
        raise ModelError(f"{where}: {key} is {short(values)}, expected {z_dim} {numbers}")


def transformer_config(component: Component) -> TransformerConfig:
    """Parse a transformer's configuration. Raises ModelError that names the key at fault."""
    try:
        return _config_class(component).model_validate(component.config)
    except ConfigFieldError as error:
        raise ModelError(f"{component.config_file}: {error}") from None


def _config_class(component: Component) -> type[TransformerConfig]:
    named = (family.config for family in FAMILIES if component.class_name in family.networks)
    return next(named, TransformerConfig)


def network_config(card: ModelCard) -> TransformerConfig:
    """Read the configuration of a checkpoint's transformer. Raises ModelError as `transformer_config`."""
    return transformer_config(read_transformers(source_of(card))[0])


def scheduler_config(card: ModelCard) -> dict[str, Any]:
    """Read the scheduler's configuration. Wan's own releases have none: they mean UniPC on flow sigmas, with the shift
    of their code."""
    place = source_of(card)
    if has_scheduler(place):
        return read_json(root_of(place) / SCHEDULER_FILE)
    return {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": card.default_flow_shift,
    }


def _scheduler(index: Index, warnings: list[str], few_steps: bool) -> dict[str, Any]:
    """Read and check the scheduler's file; keys unknown to its class become warnings. With ``few_steps`` nothing reads
    more of it than the flow shift.

    Raises:
        ModelError: the scheduler is not supported.
    """
    path = index.root / SCHEDULER_FILE
    config = read_json(path)
    check_same_class(index, "scheduler", config)
    if few_steps and config.get("_class_name") in REFUSED:
        return config
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
    """Return warnings about keys of a transformer's configuration that are not read."""
    warnings = []
    for part in parts:
        known = _config_class(part).file_keys()
        names = sorted(key for key in part.config.keys() - known if not key.startswith("_"))
        if names:
            warnings.append(f"{part.config_file}: {', '.join(names)} is not known and is ignored")
    return warnings


def _transformers(place: Source) -> tuple[TransformerConfig, tuple[Component, ...]]:
    parts = read_transformers(place)
    config = transformer_config(parts[0])
    for other in parts[1:]:
        if transformer_config(other) != config:
            raise ModelError(f"{other.config_file}: differs from {parts[0].config_file}")
    return config, parts


def _check_pair(place: Source, config: TransformerConfig, parts: tuple[Component, ...]) -> None:
    """Raise ModelError if a single file is one of the two noise experts of Wan2.2 I2V-A14B, by its shape."""
    channels = config.in_channels != config.out_channels and not config.vace_layers
    if isinstance(place, Parts) and place.is_file and len(parts) == 1 and channels and config.image_dim is None:
        raise ModelError(
            f"model: {place.base} takes {config.in_channels} channels and no CLIP tokens, as each of the two noise "
            "experts of Wan2.2 I2V-A14B: give the one for high noise as --model, the other as --model-low"
        )


def _contents(
    root: Path, config: TransformerConfig, parts: tuple[Component, ...], index: Index | None, shift: float | None
) -> Contents:
    raw = parts[0].config
    origin = raw.get("_name_or_path")
    return Contents(
        root,
        parts[0].class_name,
        config,
        len(parts),
        expand_timesteps=raw.get("model_type") == "ti2v" or (index is not None and index.expand_timesteps),
        index=index,
        shift=shift,
        origin=origin if isinstance(origin, str) else None,
    )


def _sampling(preset: Preset, spatial: int) -> Sampling:
    """Return the preset's defaults; with an autoencoder of larger cells, those of the models that have it."""
    if spatial <= preset.vae.spatial:
        return preset.sampling
    return next((other.sampling for other in PRESETS.values() if other.vae.spatial == spatial), preset.sampling)


def _check_channels(root: Path, config: TransformerConfig, z_dim: int, temporal: int) -> None:
    """Check that the transformer takes the latents' channels, alone or with a mask and the given frames."""
    if config.out_channels != z_dim or config.in_channels not in (z_dim, 2 * z_dim + temporal):
        raise ModelError(
            f"{root}: the transformer takes {config.in_channels} channels and gives {config.out_channels}, the "
            f"autoencoder has {z_dim}; expected {z_dim} or {2 * z_dim + temporal} to take and {z_dim} to give"
        )


def _check_pipeline(contents: Contents) -> None:
    """Raise ModelError if the pipeline that the index names does not run such a transformer."""
    index, config = contents.index, contents.config
    pipelines = dict.fromkeys(name for family in possible_families(contents) for name in family.pipelines)
    if index is not None and index.class_name is not None and index.class_name not in pipelines:
        raise ModelError(
            f"{index.path}: _class_name is {index.class_name}, but the transformer, with {config.in_channels} channels "
            f"to take{' and hints' if config.vace_layers else ''}, is one of {' or '.join(pipelines)}"
        )


def _check_encoders(place: Source, index: Index | None, config: TransformerConfig) -> None:
    """Check that the encoders' widths are those that the transformer takes.

    Raises:
        ModelError: a width differs, the image encoder that it needs is missing, or one is given that it has no use for.
    """
    text = read_text_encoder(place)
    width = text.config.get("d_model", config.text_dim)
    if width != config.text_dim:
        raise ModelError(f"{text.config_file}: d_model is {width}, the transformer's text_dim is {config.text_dim}")
    given = place.load.image_encoder if isinstance(place, Parts) else ""
    if config.image_dim is None:
        if given:
            raise ModelError(
                f"image-encoder: {shown(given)} is not needed, the transformer attends to no pictures: leave it out"
            )
        return
    if index is not None and not given and not index.has("image_encoder"):
        raise ModelError(f"{index.root / 'image_encoder'}: is missing, the transformer's image_dim needs it")
    image = read_image_encoder(place)
    width = image.config.get("hidden_size", config.image_dim)
    if width != config.image_dim:
        raise ModelError(
            f"{image.config_file}: hidden_size is {width}, the transformer's image_dim is {config.image_dim}"
        )


def _boundary(root: Path, index: Index | None, preset: Preset) -> float:
    """Read the boundary of two noise experts; converters also leave one in checkpoints with a single transformer."""
    value = None if index is None else index.boundary
    if value is None:
        value = preset.sampling.boundary
    where = root if index is None else index.path
    if value is None:
        raise ModelError(f"{where}: boundary_ratio is missing, which says where the second transformer takes over")
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise ModelError(f"{where}: boundary_ratio is {value!r}, must be between 0 and 1")
    return float(value)

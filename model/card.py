"""What a checkpoint directory can do, read from its configuration files. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.config import TransformerConfig
from model.directory import (
    Component,
    ModelError,
    check_components,
    check_header,
    image_encoder_files,
    is_original,
    read_autoencoder,
    read_json,
    read_text_encoder,
    read_transformers,
    tokenizer_directory,
)
from model.family import FAMILY, ConditionerKind, Preset, nearest_preset
from model.schedulers import shift_key
from model.tasks import MAX_DURATION_SECONDS, TASK_KINDS, ModelCard

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


def read_card(directory: Path, name: str) -> ModelCard:
    """Read a checkpoint's configuration files, in either layout.

    Raises:
        ModelError: a file is missing or unreadable, or the classes are not ones we run.
    """
    if not is_original(directory):
        check_components(directory)
    config, parts = _transformers(directory)
    vae = read_autoencoder(directory).config
    z_dim, spatial = int(vae.get("z_dim", 0)), int(vae.get("scale_factor_spatial", 8))
    temporal = int(vae.get("scale_factor_temporal", 4))
    kind = _conditioner(directory, config, parts[0], z_dim, temporal)
    preset = nearest_preset(config, kind, len(parts), name)
    sampling = FAMILY["wan2.2-ti2v-5b"].sampling if spatial == 16 else preset.sampling
    tasks = FAMILY_TASKS[preset.conditioner]
    if kind == "channels" and config.image_dim is not None:  # trained with one picture, or with two
        tasks = ("first_last_frame",) if config.pos_embed_seq_len is not None else ("image_to_video",)
    chained = tasks not in (("text_to_video",), ("first_last_frame",))
    flow_shift, note = _flow_shift(directory, preset)
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
        conditioner="bernini" if preset.name.startswith("bernini") else kind,
        boundary=_boundary(directory, preset) if len(parts) == 2 else None,
        default_guidance_low=sampling.guidance_low if len(parts) == 2 else None,
        default_size=sampling.size,
        trained_sizes=sampling.trained_sizes,
        default_negative_prompt=sampling.negative_prompt,
        default_flow_shift=flow_shift,
        flow_shift_note=note,
    )


def check_files(card: ModelCard) -> None:
    """Check that the weights of every component are there and that their headers can be read.

    Raises:
        ModelError: names the file that is missing or corrupt.
    """
    root = Path(card.directory)
    for component in (*read_transformers(root), read_autoencoder(root), read_text_encoder(root)):
        for path in component.files:
            check_header(path)
    scheduler_config(card)
    tokenizer = tokenizer_directory(root)
    if not any(tokenizer.glob("*.json")) and not any(tokenizer.glob("*.model")):
        raise ModelError(f"{tokenizer}: holds no tokenizer file")
    config, _ = _transformers(root)
    if config.image_dim is not None:
        for path in image_encoder_files(root):
            check_header(path)


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
        return read_json(root / "scheduler" / "scheduler_config.json")
    return {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": card.default_flow_shift,
    }


def _flow_shift(root: Path, preset: Preset) -> tuple[float | None, str]:
    """The shift of the noise schedule that a checkpoint's files mean, and what Wan's own code takes where it differs:
    the two layouts of one model then give different clips."""
    usual = preset.sampling.shift
    if is_original(root):
        return usual, "Wan's own code"
    config = read_json(root / "scheduler" / "scheduler_config.json")
    key = shift_key(config)
    value = config.get(key, 1.0) if key is not None else None  # 1: diffusers' default
    if not isinstance(value, int | float):
        return None, ""
    note = "scheduler_config.json" if value == usual else f"scheduler_config.json; Wan's own code takes {usual:g}"
    return float(value), note


def _transformers(root: Path) -> tuple[TransformerConfig, tuple[Component, ...]]:
    parts = read_transformers(root)
    config = transformer_config(parts[0])
    for other in parts[1:]:
        if transformer_config(other) != config:
            raise ModelError(f"{other.directory / 'config.json'}: differs from {parts[0].directory / 'config.json'}")
    return config, parts


def _conditioner(root: Path, config: TransformerConfig, part: Component, z_dim: int, temporal: int) -> ConditionerKind:
    """How pictures enter, told by channels: those of the latents alone, or with a mask and the frames given beside."""
    if config.out_channels != z_dim or config.in_channels not in (z_dim, 2 * z_dim + temporal):
        raise ModelError(
            f"{root}: the transformer takes {config.in_channels} channels and gives {config.out_channels}, the "
            f"autoencoder has {z_dim}; expected {z_dim} or {2 * z_dim + temporal} to take and {z_dim} to give"
        )
    if config.vace_layers:
        return "vace"
    if config.in_channels != z_dim:
        return "channels"
    index = {} if part.original else read_json(root / "model_index.json")
    if index.get("expand_timesteps") or part.config.get("model_type") == "ti2v":
        return "first_latent"
    return "streams"


def _boundary(root: Path, preset: Preset) -> float | None:
    """Read only where there are two noise experts: converters also leave it in checkpoints of one."""
    index = {} if is_original(root) else read_json(root / "model_index.json")
    value = index.get("boundary_ratio")
    if value is None:
        return preset.sampling.boundary
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise ModelError(f"{root / 'model_index.json'}: boundary_ratio is {value!r}, must be between 0 and 1")
    return float(value)

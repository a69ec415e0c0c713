"""What vLLM-Omni, SGLang-Diffusion and LiteLLM send beside the fields that are served: settings that they nest, fields
without effect here, and fields that ask for what is not built.

A field without effect is taken, and the job says so. One that would change the video is refused, unless its value
switches it off.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.tasks import MAX_FIELD_CHARS, InvalidRequest, ModelCard, Quality, Violation
from zoetrope.serving.gateway.errors.api_error import ApiError
from zoetrope.serving.gateway.http.common.json_objects import json_text

# Objects whose fields count as if they stood beside them, in the order in which they are opened: the first may hold
# the others. A form has them as JSON text.
NESTED = ("extra_body", "extra_json", "extra_params", "video_params")
WITHOUT_EFFECT = {
    "cache_dit_params": "enable_cache_dit is off",
    "frame_interpolation_exp": "enable_frame_interpolation is off",
    "frame_interpolation_model_path": "enable_frame_interpolation is off",
    "frame_interpolation_scale": "enable_frame_interpolation is off",
    "generator_device": "noise is always drawn on the CPU, so that a seed means the same on every machine",
    "metadata": "it is not kept",
    "num_profiled_timesteps": "profile is off",
    "response_format": "the answer is always a video object; its file is at /v1/videos/{video_id}/content",
    "true_cfg_scale": "guidance_scale is the scale of classifier-free guidance here",
    "upscaling_model_path": "enable_upscaling is off",
    "upscaling_scale": "enable_upscaling is off",
    "user": "it is not kept",
}
NOT_BUILT = {
    "audio_reference": "sounds cannot guide a video here",
    "characters": "there are no characters here; give pictures of them as input_reference",
    "diffusers_kwargs": "nothing here runs in diffusers",
    "enable_cache_dit": "steps are reused by quality=balanced or quality=fast here",
    "enable_frame_interpolation": "frames are not interpolated here; ask for more fps",
    "enable_teacache": "steps are reused by quality=balanced or quality=fast here",
    "enable_upscaling": "videos are not scaled up here; ask for the size itself",
    "lora": "registered adapters are named in loras",
    "output_compression": "how files are encoded is not for requests to choose",
    "output_path": "files are stored by the service, see /v1/videos/{video_id}/content",
    "perf_dump_path": "no files are written where a request says; see stage_durations of the video",
    "profile": "requests are not profiled here; see stage_durations of the video",
    "profile_all_stages": "requests are not profiled here; see stage_durations of the video",
    "sound_duration": "a sound is as long as its video",
    "video_path": "files of the service's machine are not read; upload it, or give an address as video_url",
    "x264_preset": "how files are encoded is not for requests to choose",
}
# Values that ask for what happens anyway.
USUAL = {
    "output_quality": ("default", "how files are encoded is not for requests to choose"),
    "return_stage_metrics": ("true", "stage_durations are always shown"),
}
# Fields that other services mean otherwise -> the values that are meant here.
OTHERWISE = {"quality": get_args(Quality)}
OFF = ("", "false", "0", "no", "off", "none", "null")


@dataclass(frozen=True)
class TakenFields:
    """Of a body: the fields that the API's own schema has to check, and what the job should say of the others."""

    values: dict[str, Any]
    warnings: tuple[str, ...]


async def take_peer_fields(given: Mapping[str, Any], served: Container[str]) -> TakenFields:
    """Open what is nested, and take out the fields that are not served.

    Args:
        given: a body, its values as JSON or a form has them.
        served: names of the fields that the API's schema has.

    Raises:
        InvalidRequest: a field asks for what is not built, or a nested one is not known.
    """
    values, warnings, bad = dict(given), list[str](), list[Violation]()
    for container in NESTED:
        for field, value in (await _opened(container, values.pop(container, None))).items():
            if not (field in served or field in WITHOUT_EFFECT or field in NOT_BUILT or field in (*USUAL, *NESTED)):
                bad.append(Violation(f"{container}.{field}"[:MAX_FIELD_CHARS], "is not a known field"))
            elif field not in values:
                values[field] = value
            elif str(values[field]) != str(value):  # a form has all as texts
                warnings.append(f"{container}.{field}: not used, for {field} stands beside it")
    for field, ours in OTHERWISE.items():
        if values.get(field) is not None and values[field] not in ours:
            warnings.append(f"{field}: {short(values.pop(field))} is without effect; here it is {', '.join(ours)}")
    for field in [field for field in values if field not in served]:
        if field in WITHOUT_EFFECT:
            if values.pop(field) is not None:
                warnings.append(f"{field}: without effect, for {WITHOUT_EFFECT[field]}")
        elif field in NOT_BUILT:
            if not _is_off(value := values.pop(field)):
                bad.append(Violation(field, f"{short(value)} given, but {NOT_BUILT[field]}"))
        elif field in USUAL:
            usual, reason = USUAL[field]
            if not _is_off(value := values.pop(field)) and str(value).lower() != usual:
                bad.append(Violation(field, f"{short(value)} given, but {reason}"))
    if bad:
        raise InvalidRequest(*bad, named=True)
    return TakenFields(values, tuple(warnings))


async def unfold(field: str, value: Any) -> Any:
    """Return what a text in a form stands for, if it is to be a JSON object or list; anything else as it is.

    Raises:
        InvalidRequest: it is malformed, or holds too much.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return await json_text(value)
    except ApiError as error:
        raise InvalidRequest(Violation(field, error.message.removeprefix("body: ")), named=True) from None


def check_fixed(card: ModelCard, boundary_ratio: float | None, max_sequence_length: int | None) -> list[Violation]:
    """Check fields that a request may name, but not change: they belong to the model."""
    bad = []
    own = "no two noise experts" if card.boundary is None else f"{card.boundary:g}"
    if boundary_ratio is not None and not (card.boundary and math.isclose(boundary_ratio, card.boundary, abs_tol=1e-6)):
        bad.append(Violation("boundary_ratio", f"{boundary_ratio:g} given, but {card.name} has {own}"))
    if max_sequence_length not in (None, card.max_text_tokens):
        description = f"{max_sequence_length} given, but {card.name} reads {card.max_text_tokens} tokens"
        bad.append(Violation("max_sequence_length", description))
    return bad


async def _opened(container: str, value: Any) -> Mapping[str, Any]:
    if value is None or value == "":
        return {}
    found = await unfold(container, value)
    if not isinstance(found, dict):
        raise InvalidRequest(Violation(container, f"{short(value)} must be a JSON object"), named=True)
    return found


def _is_off(value: Any) -> bool:
    return not value or (isinstance(value, str) and value.strip().lower() in OFF)

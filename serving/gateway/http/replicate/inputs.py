"""Translate an input of the Replicate API to a task of the served model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoetrope.model.request.tasks import InvalidRequest, Violation
from zoetrope.serving.gateway.http.common.json_objects import parse
from zoetrope.serving.gateway.http.replicate.catalogue import OfferedModel
from zoetrope.serving.gateway.http.replicate.fields import ALIASES, AREAS, EditInput, WanInput
from zoetrope.serving.gateway.http.replicate.forms import EMPTY, FIELDS, InputForm

# Replicate's names -> the service's.
PASSED_ON = {
    "aspect_ratio": "ratio",
    "duration": "duration_seconds",
    "num_frames": "frames",
    "frames_per_second": "fps",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "guidance_scale_2": "guidance_low",
    "flow_shift": "flow_shift",
    "sampler": "sampler",
    "quality": "quality",
    "guidance_start": "guidance_start",
    "guidance_end": "guidance_end",
    "loras": "loras",
    "fit": "fit",
    "output_format": "container",
    "seed": "seed",
    "audio": "audio",
}
CLIENT_NAMES = {ours: theirs for theirs, ours in PASSED_ON.items()} | {
    "size": "resolution",
    "expand_prompt": "enable_prompt_expansion",
    "image": "first_frame",
    "clip": "first_clip",
    "panels": "images",
}
TASK_FIELDS = (
    *("prompt", "negative_prompt", "image", "clip", "loop", "first_frame", "last_frame", "panels", "references"),
    *("video", "keep_audio"),
)
NOT_EXPANDED = "enable_prompt_expansion was asked for, but this service expands no prompts: yours was used as it is"


@dataclass(frozen=True)
class TranslatedInput:
    """An input in the service's terms.

    Attributes:
        data: of a zoetrope.serving.gateway.submit.submission.Submission.
        names: the service's fields -> the client's, where they differ; a name covers what is below it, too.
        warnings: of what was asked for and changes nothing.
    """

    data: dict[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    expand: bool = False
    warnings: tuple[str, ...] = ()


class Names:
    """The names that the client used."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def client(self, ours: str) -> str:
        """Return the service's field (``references.1``) as the client wrote it, below ``input``."""
        stem, rest = ours, ""
        while stem not in self._names:
            stem, dot, last = stem.rpartition(".")
            if not dot:
                return f"input.{ours}"
            rest = f".{last}{rest}"
        return ".".join(filter(None, ("input", self._names[stem]))) + rest


def translate(model: OfferedModel, given: Mapping[str, Any], expands: bool) -> TranslatedInput:
    """Translate a client's input.

    Args:
        expands: the service has a hook that expands prompts.

    Raises:
        InvalidRequest: fields as the client wrote them, below ``input``.
    """
    named = {"model": model.served} if model.served else {}
    if model.served and "task" in given:
        return TranslatedInput({**named, **given}, {name: f"task.{name}" for name in TASK_FIELDS})
    form = model.form_of(given)
    plain, names = _without_aliases(form, given)
    try:
        found = parse(form.fields, plain)
        task = form.task(found, names)
    except InvalidRequest as error:
        client = Names(names).client
        raise InvalidRequest(*(Violation(client(v.field), v.description) for v in error.violations)) from None
    for ours, theirs in CLIENT_NAMES.items():
        names.setdefault(ours, names.get(theirs, theirs))
    names["task"] = ""  # it is the input as a whole that makes it
    values = found.model_dump(exclude_none=True)
    if isinstance(found, EditInput) and found.duration == 0:
        del values["duration"]
    data: dict[str, Any] = {"task": task, **named} | _size(model, found, names)
    data |= {ours: values[theirs] for theirs, ours in PASSED_ON.items() if theirs in values}
    wished = bool(found.enable_prompt_expansion)
    warnings = found.inert() + ([NOT_EXPANDED] if wished and not expands else [])
    return TranslatedInput(data, names, wished and expands, tuple(warnings))


def _size(model: OfferedModel, found: WanInput, names: dict[str, str]) -> dict[str, str]:
    """Return the size, if one is to be had; notes the name of its field."""
    if found.size is not None:
        names["size"] = "size"
        return {"size": found.size}
    if "resolution" in found.model_fields_set:
        return {"size": found.resolution}
    area = getattr(found, "max_area", None)
    if area is not None:
        names["size"] = "max_area"
        return {"size": AREAS[area]}
    return {} if model.resolution is None else {"size": model.resolution}


def _without_aliases(form: InputForm, given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    fields = form.fields.model_fields
    plain: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in given.items():
        known = name if name in fields else ALIASES.get(name, name)
        if known in plain:
            description = f"means the same as {names.get(known, known)}, give one of them"
            raise InvalidRequest(Violation(f"input.{name}", description))
        if value is None and known in fields and not fields[known].is_required():
            continue  # as if it were not there
        if value in EMPTY and known not in fields and known in FIELDS:
            continue  # nor is what other forms have
        plain[known] = value
        if known != name:
            names[known] = name
    return plain, names

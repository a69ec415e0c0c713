"""Translate a DashScope request into the fields of a submission."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.sizes import SIZES, size_name
from zoetrope.model.request.tasks import MAX_REFERENCES, InvalidRequest, ModelCard, Violation
from zoetrope.serving.api.names import MEDIA, MEDIA_ID, id_from
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.gateway.http.dashscope.api import FIELDS
from zoetrope.serving.gateway.http.dashscope.schema import MAX_SEED, Input, Parameters, Synthesis
from zoetrope.serving.gateway.submit.submission import UnknownModel

OSS = "oss://"
AUDIO = "driving_audio"
VOICE = "reference_voice"
FRAMES = ("first_frame", "last_frame", "first_clip")
REFERENCES = ("reference_image", "reference_video")
# What a model of DashScope's catalogue takes, by the middle of its name.
TAKES: Mapping[str, Sequence[str]] = {
    "t2v": (AUDIO,),
    "i2v": (*FRAMES, AUDIO),
    "r2v": (*REFERENCES, "first_frame", VOICE, AUDIO),
    "videoedit": ("video", *REFERENCES),
}
OLD_FAMILIES = {"txt2video": "t2v", "img2video": "i2v", "kf2v": "i2v"}
CATALOGUE = re.compile(r"wanx?(?:\d\.\d)?-(t2v|i2v|r2v|videoedit|kf2v|txt2video|img2video)(?:-[a-z0-9-]{1,32})?")
CATALOGUE_TEXT = "wan2.7-t2v, wan2.7-i2v, wan2.7-r2v, wan2.7-videoedit"
# Fields of models before Wan 2.7.
OLD_FIELDS = {
    "img_url": "first_frame",
    "first_frame_url": "first_frame",
    "head_frame": "first_frame",
    "last_frame_url": "last_frame",
    "tail_frame": "last_frame",
    "reference_url": "reference_image",
    "audio_url": AUDIO,
}
BASE64 = re.compile(r"[A-Za-z0-9+/]{64}")  # the start of a file in base64; the shortest one is longer
OLD_LISTS = {"reference_urls": "reference_image", "reference_video_urls": "reference_video"}


@dataclass(frozen=True)
class NamedSource:
    """A medium of the request and the field it stands in."""

    field: str
    type: str
    url: str


@dataclass(frozen=True)
class TranslatedTask:
    """Fields of a zoetrope.model.request.tasks.VideoRequest, their names in the request, and the model it is for."""

    data: dict[str, Any]
    names: dict[str, str]
    card: ModelCard


def translate(body: Synthesis, models: ServedModels) -> TranslatedTask:
    """Translate a request.

    Raises:
        InvalidRequest: with every field at fault that the submission could not find.
        UnknownModel.
    """
    family = family_of(body.model, models.names)
    media = named_media(body.input)
    bad = [*_unserved(body.input), *_misplaced(media, family, body.model)]
    data, names = _parameters(body.parameters, bad)
    if bad:
        raise InvalidRequest(*bad)
    by_type: dict[str, list[NamedSource]] = {}
    for item in media:
        by_type.setdefault(item.type, []).append(item)
    task, fields = _task(by_type, media, family)
    card = models.find(body.model) or models.of_task((task["kind"],)) or models.default
    if task["kind"] == "edit_video" and body.parameters.duration == 0:
        del data["duration_seconds"]  # the original's default: as long as its source
    if follows_first_frame(by_type):
        data.pop("ratio", None)
    negative = body.input.negative_prompt
    if negative is None and body.parameters.negative_prompt is not None:
        negative, names["negative_prompt"] = body.parameters.negative_prompt, "parameters.negative_prompt"
    task |= {"prompt": body.input.prompt or "", "negative_prompt": negative}
    if task["kind"] == "edit_video" and body.parameters.audio_setting == "origin":
        task["keep_audio"] = True
    if AUDIO in by_type and body.parameters.audio is not False:
        (sound,) = by_type[AUDIO]
        data["audio"], fields["audio"] = source(sound.url), sound.field
    elif body.parameters.audio and card.audio:
        data["generate_audio"] = True
    return TranslatedTask({**data, "model": card.name, "task": task}, {**FIELDS, **names, **fields}, card)


def family_of(name: str, served: Sequence[str]) -> str | None:
    """Return the task that a name of DashScope's catalogue stands for; None for a name of a served model: any task.

    Raises:
        UnknownModel.
    """
    if name in served:
        return None
    found = CATALOGUE.fullmatch(name)
    if found is None:
        raise UnknownModel(name, (*served, *CATALOGUE_TEXT.split(", ")))
    return OLD_FAMILIES.get(found[1], found[1])


def named_media(given: Input) -> list[NamedSource]:
    """List all media of a request, in the order of the prompt's "Image 1" and "Video 1"."""
    media = [NamedSource(f"input.media.{i}.url", item.type, item.url) for i, item in enumerate(given.media)]
    for field, kind in OLD_FIELDS.items():
        if value := getattr(given, field):
            media.append(NamedSource(f"input.{field}", kind, value))
    for field, kind in OLD_LISTS.items():
        media += [NamedSource(f"input.{field}.{i}", kind, value) for i, value in enumerate(getattr(given, field))]
    return media


def follows_first_frame(kinds: Collection[str]) -> bool:
    """Tell whether the ratio that is asked for gives way to the first frame's, as the original rules for references."""
    return "first_frame" in kinds and any(kind in kinds for kind in REFERENCES)


def media_id(oss_key: str) -> str:
    """Return the id that an upload of that key gets (`serving.gateway.http.dashscope.uploads`)."""
    return id_from(MEDIA_ID, hashlib.sha256(oss_key.encode()).digest())


def source(url: str) -> str:
    """Name a medium as submissions do. Base64 alone, which the original takes too, becomes a data URL."""
    if url.startswith(OSS):
        return MEDIA + media_id(url.removeprefix(OSS))
    return "data:;base64," + "".join(url.split()) if BASE64.match(url) else url


def _unserved(given: Input) -> list[Violation]:
    """Report fields that would make another video, and for which nothing is built."""
    bad = []
    if given.template is not None:
        bad.append(Violation("input.template", f"{short(given.template)} is given, but there are no effects here"))
    if given.reference_video_description:
        description = "is given, but descriptions of references are not read; put them into the prompt"
        bad.append(Violation("input.reference_video_description", description))
    return bad


def _misplaced(media: Sequence[NamedSource], family: str | None, model: str) -> list[Violation]:
    """Report media that the model does not take, or not so many of, or not together."""
    known = sorted({kind for kinds in TAKES.values() for kind in kinds}) if family is None else TAKES[family]
    bad = []
    seen: dict[str, str] = {}
    for item in media:
        if item.type not in known:
            field = item.field.removesuffix("url") + "type" if item.field.startswith("input.media.") else item.field
            bad.append(Violation(field, f"{short(item.type)} is none of what {model} takes: {', '.join(known)}"))
        elif item.type in seen and item.type not in (*REFERENCES, VOICE):
            bad.append(Violation(item.field, f"is a second {item.type}; {seen[item.type]} is the first"))
        elif not item.url.startswith(("http://", "https://", "data:", OSS)) and not BASE64.match(item.url):
            bad.append(Violation(item.field, f"{short(item.url)} must be an http, https, data or oss URL, or base64"))
        seen.setdefault(item.type, item.field)
    if bad:
        return bad
    for first, second in (("first_clip", "first_frame"), ("video", "first_frame")):
        if first in seen and second in seen:
            bad.append(Violation(seen[second], f"a {second} cannot be given together with a {first}"))
    needed = {
        "i2v": ("first_frame", "first_clip"),
        "r2v": REFERENCES,
        "videoedit": ("video",),
    }.get(family or "", ())
    if "last_frame" in seen and not {"first_frame", "first_clip"} & set(seen):
        bad.append(Violation(seen["last_frame"], "a last_frame needs a first_frame or a first_clip"))
    elif needed and not set(needed) & set(seen):
        bad.append(Violation("input.media", f"holds no {' and no '.join(needed)}, which {model} needs"))
    references = [item for item in media if item.type in REFERENCES]
    if len(references) > MAX_REFERENCES:
        bad.append(Violation("input.media", f"has {len(references)} references, at most {MAX_REFERENCES} are allowed"))
    return bad


def _task(
    by_type: Mapping[str, Sequence[NamedSource]], media: Sequence[NamedSource], family: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the task, and the names of its media in the request."""
    names: dict[str, str] = {}

    def one(ours: str, kind: str) -> dict[str, str]:
        if kind not in by_type:
            return {}
        names[ours] = by_type[kind][0].field
        return {ours: source(by_type[kind][0].url)}

    references = [item for item in media if item.type in REFERENCES]
    names |= {f"references.{i}": item.field for i, item in enumerate(references)}
    sources = [source(item.url) for item in references]
    if "video" in by_type:
        return {"kind": "edit_video", **one("video", "video"), "references": sources}, names
    if references or family == "r2v":
        first = one("first_frame", "first_frame")
        return {"kind": "reference_to_video", "references": sources, **first}, names
    last = one("last_frame", "last_frame")
    if "first_clip" in by_type:
        return {"kind": "image_to_video", **one("clip", "first_clip"), **last}, names
    if last:
        return {"kind": "first_last_frame", **one("first_frame", "first_frame"), **last}, names
    if "first_frame" in by_type:
        return {"kind": "image_to_video", **one("image", "first_frame")}, names
    return {"kind": "text_to_video"}, names


def _parameters(given: Parameters, bad: list[Violation]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields of the request beside the task; adds what is wrong with them to ``bad``."""
    data: dict[str, Any] = {
        "ratio": given.ratio,
        "fit": given.fit,
        "duration_seconds": given.duration,
        "seed": given.seed,
        "steps": given.num_inference_steps,
        "guidance": given.guidance_scale,
        "flow_shift": given.flow_shift,
        "sampler": given.sampler,
        "quality": given.quality,
        "guidance_start": given.guidance_start,
        "guidance_end": given.guidance_end,
        "loras": None if given.loras is None else [lora.model_dump() for lora in given.loras],
    }
    names = {"size": "parameters.size"}
    if given.seed is not None and not 0 <= given.seed <= MAX_SEED:
        bad.append(Violation("parameters.seed", f"{short(given.seed)} must be from 0 to {MAX_SEED}"))
    if given.size is not None:
        data["size"] = given.size
        if given.resolution is not None:
            bad.append(Violation("parameters.resolution", "cannot be combined with size"))
    elif given.resolution is not None:
        data["size"] = given.resolution
        names["size"] = "parameters.resolution"
        if size_name(given.resolution) not in SIZES:
            allowed = ", ".join(size.upper() for size in SIZES)
            bad.append(Violation("parameters.resolution", f"{short(given.resolution)} is not one of {allowed}"))
    return {field: value for field, value in data.items() if value is not None}, names

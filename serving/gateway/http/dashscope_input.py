"""A DashScope request as one of our orders."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.sizes import SIZES, size_name
from model.tasks import MAX_REFERENCES, InvalidRequest, ModelCard, Violation, short
from serving.api.names import MEDIA, MEDIA_ID, id_from
from serving.gateway.http.dashscope_models import MAX_SEED, Input, Parameters, Synthesis
from serving.gateway.intake import UnknownModel

OSS = "oss://"
AUDIO = "driving_audio"
FRAMES = ("first_frame", "last_frame", "first_clip")
REFERENCES = ("reference_image", "reference_video")
# What a model of DashScope's catalogue takes, by the middle of its name.
TAKES: Mapping[str, Sequence[str]] = {
    "t2v": (AUDIO,),
    "i2v": (*FRAMES, AUDIO),
    "r2v": (*REFERENCES, "first_frame", AUDIO),
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
OLD_LISTS = {"reference_urls": "reference_image", "reference_video_urls": "reference_video"}
PARAMETERS = {
    "duration_seconds": "parameters.duration",
    "frames": "parameters.duration",
    "generate_audio": "parameters.audio",
    "steps": "parameters.num_inference_steps",
    "guidance": "parameters.guidance_scale",
    "flow_shift": "parameters.flow_shift",
    "fit": "parameters.fit",
    "ratio": "parameters.ratio",
    "seed": "parameters.seed",
    "fps": "parameters.fps",
    "prompt": "input.prompt",
    "negative_prompt": "input.negative_prompt",
    "references": "input.media",
    "task": "model",
    "request_id": "Idempotency-Key",
    "name": "task_id",
}


@dataclass(frozen=True)
class Named:
    """A medium of the request and the field it stands in."""

    field: str
    type: str
    url: str


@dataclass(frozen=True)
class Translated:
    """Fields of a model.tasks.VideoRequest, and their names in the request."""

    data: dict[str, Any]
    names: dict[str, str]


def translate(body: Synthesis, card: ModelCard) -> Translated:
    """
    Raises:
        InvalidRequest: with every field at fault that the intake could not find.
        UnknownModel.
    """
    family = family_of(body.model, card)
    media = named_media(body.input)
    bad = _misplaced(media, family, body.model)
    data, names = _parameters(body.parameters, bad)
    if bad:
        raise InvalidRequest(*bad)
    by_type: dict[str, list[Named]] = {}
    for item in media:
        by_type.setdefault(item.type, []).append(item)
    task, fields = _task(by_type, media, family)
    task |= {"prompt": body.input.prompt or "", "negative_prompt": body.input.negative_prompt}
    if task["kind"] == "edit_video" and body.parameters.audio_setting == "origin":
        task["keep_audio"] = True
    if AUDIO in by_type:
        (sound,) = by_type[AUDIO]
        data["audio"], fields["audio"] = source(sound.url), sound.field
    return Translated({**data, "task": task}, {**PARAMETERS, **names, **fields})


def family_of(name: str, card: ModelCard) -> str | None:
    """Which task a name of DashScope's catalogue stands for; None: the served model's own name, which takes all.

    Raises:
        UnknownModel.
    """
    if name == card.name:
        return None
    found = CATALOGUE.fullmatch(name)
    if found is None:
        raise UnknownModel(name, (card.name, *CATALOGUE_TEXT.split(", ")))
    return OLD_FAMILIES.get(found[1], found[1])


def named_media(given: Input) -> list[Named]:
    """All media of a request; their order is that of the prompt's "Image 1" and "Video 1"."""
    media = [Named(f"input.media.{i}.url", item.type, item.url) for i, item in enumerate(given.media)]
    for field, kind in OLD_FIELDS.items():
        if value := getattr(given, field):
            media.append(Named(f"input.{field}", kind, value))
    for field, kind in OLD_LISTS.items():
        media += [Named(f"input.{field}.{i}", kind, value) for i, value in enumerate(getattr(given, field))]
    return media


def media_id(oss_key: str) -> str:
    """The medium that an upload of that key becomes (`serving.gateway.http.dashscope_uploads`)."""
    return id_from(MEDIA_ID, hashlib.sha256(oss_key.encode()).digest())


def source(url: str) -> str:
    """As the intake names media."""
    return MEDIA + media_id(url.removeprefix(OSS)) if url.startswith(OSS) else url


def _misplaced(media: Sequence[Named], family: str | None, model: str) -> list[Violation]:
    """Media that the model does not take, or not so many of, or not together."""
    known = sorted({kind for kinds in TAKES.values() for kind in kinds}) if family is None else TAKES[family]
    bad = []
    seen: dict[str, str] = {}
    for item in media:
        if item.type not in known:
            field = item.field.removesuffix("url") + "type" if item.field.startswith("input.media.") else item.field
            bad.append(Violation(field, f"{short(item.type)} is none of what {model} takes: {', '.join(known)}"))
        elif item.type in seen and item.type not in REFERENCES:
            bad.append(Violation(item.field, f"is a second {item.type}; {seen[item.type]} is the first"))
        elif not item.url.startswith(("http://", "https://", "data:", OSS)):
            bad.append(Violation(item.field, f"{short(item.url)} is no http, https, data or oss address"))
        seen.setdefault(item.type, item.field)
    if bad:
        return bad
    for first, second in (("first_clip", "first_frame"), ("first_clip", "last_frame"), ("video", "first_frame")):
        if first in seen and second in seen:
            bad.append(Violation(seen[second], f"a {second} cannot be given together with a {first}"))
    needed = {
        "i2v": ("first_frame", "first_clip"),
        "r2v": REFERENCES,
        "videoedit": ("video",),
    }.get(family or "", ())
    if "last_frame" in seen and not {"first_frame", "first_clip"} & set(seen):
        bad.append(Violation(seen["last_frame"], "a last_frame needs a first_frame"))
    elif needed and not set(needed) & set(seen):
        bad.append(Violation("input.media", f"holds no {' and no '.join(needed)}, which {model} needs"))
    references = [item for item in media if item.type in REFERENCES]
    if len(references) > MAX_REFERENCES:
        bad.append(Violation("input.media", f"has {len(references)} references, at most {MAX_REFERENCES} are allowed"))
    return bad


def _task(
    by_type: Mapping[str, Sequence[Named]], media: Sequence[Named], family: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The task, and the names of its media in the request."""
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
    if "last_frame" in by_type:
        frames = {**one("first_frame", "first_frame"), **one("last_frame", "last_frame")}
        return {"kind": "first_last_frame", **frames}, names
    if "first_clip" in by_type:
        return {"kind": "image_to_video", **one("clip", "first_clip")}, names
    if "first_frame" in by_type:
        return {"kind": "image_to_video", **one("image", "first_frame")}, names
    return {"kind": "text_to_video"}, names


def _parameters(given: Parameters, bad: list[Violation]) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields of the request beside the task; what is wrong with them goes to ``bad``."""
    data: dict[str, Any] = {
        "ratio": given.ratio,
        "fit": given.fit,
        "duration_seconds": given.duration,
        "seed": given.seed,
        "steps": given.num_inference_steps,
        "guidance": given.guidance_scale,
        "flow_shift": given.flow_shift,
        "generate_audio": given.audio,
    }
    names = {"size": "parameters.size"}
    if given.watermark:
        bad.append(Violation("parameters.watermark", "true, but this service draws none; leave it out or give false"))
    if given.seed is not None and not 0 <= given.seed <= MAX_SEED:
        bad.append(Violation("parameters.seed", f"{short(given.seed)} is not within 0 to {MAX_SEED}"))
    if given.size is not None:
        data["size"] = given.size
        if given.resolution is not None:
            bad.append(Violation("parameters.resolution", "is given together with size, give one of them"))
    elif given.resolution is not None:
        data["size"] = given.resolution
        names["size"] = "parameters.resolution"
        if size_name(given.resolution) not in SIZES:
            allowed = ", ".join(size.upper() for size in SIZES)
            bad.append(Violation("parameters.resolution", f"{short(given.resolution)} is not one of {allowed}"))
    return {field: value for field, value in data.items() if value is not None}, names

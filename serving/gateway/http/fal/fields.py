"""The fields of fal's Wan apps: those that are served, those that change nothing here, and those that are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.tasks import Fit, Quality, SamplerName, Seed, Violation

MAX_MEDIA = 16
SECONDS = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?s?")


def _seconds(value: object) -> object:
    """Read seconds as fal's apps write them ("5") and as Vercel's AI SDK does ("5s")."""
    return value.removesuffix("s") if isinstance(value, str) and SECONDS.fullmatch(value) else value


Urls = Annotated[list[str], Field(max_length=MAX_MEDIA)]


class FalLora(BaseModel):
    """An adapter as fal's apps have it; ``path`` is the name of a registered one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    scale: float = 1.0
    transformer: Literal["high", "low", "both"] = "both"

    def fields(self) -> dict[str, Any]:
        """Return the service's fields."""
        low = {"both": {}, "high": {"strength_low": 0.0}, "low": {"strength_low": self.scale}}[self.transformer]
        return {"name": self.path, "strength": 0.0 if self.transformer == "low" else self.scale, **low}


class FalInput(BaseModel):
    """What can be asked for; an app takes the media that are its own."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = ""
    negative_prompt: str | None = None
    image_url: str | None = None
    end_image_url: str | None = None
    video_url: str | None = None
    audio_url: str | None = None
    reference_image_urls: Urls = []
    reference_video_urls: Urls = []
    loop: bool = False
    audio_setting: Literal["auto", "origin"] = "auto"
    resolution: str | None = None
    aspect_ratio: str | None = None
    fit: Fit | None = None
    duration: Annotated[float, BeforeValidator(_seconds)] | None = None
    num_frames: int | None = None
    frames_per_second: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    shift: float | None = None
    sampler: SamplerName | None = None
    quality: Quality | None = None
    guidance_start: float | None = None
    guidance_end: float | None = None
    loras: Annotated[list[FalLora], Field(max_length=MAX_MEDIA)] = []
    seed: Seed | None = None
    enable_prompt_expansion: bool = False


# What an app calls a field of another name.
ALIASES = {
    "start_image_url": "image_url",
    "first_frame_url": "image_url",
    "last_frame_url": "end_image_url",
    "ref_image_urls": "reference_image_urls",
    "image_urls": "reference_image_urls",
    "reference_image_url": "reference_image_urls",
    "video_urls": "reference_video_urls",
    "guide_scale": "guidance_scale",
    "flow_shift": "shift",
    "fps": "frames_per_second",
    "prompt_optimizer": "enable_prompt_expansion",
}
ONE_OF_MANY = ("reference_image_url",)
# fal's names -> the service's own.
PASSED_ON = {
    "aspect_ratio": "ratio",
    "fit": "fit",
    "duration": "duration_seconds",
    "num_frames": "frames",
    "frames_per_second": "fps",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "guidance_scale_2": "guidance_low",
    "shift": "flow_shift",
    "sampler": "sampler",
    "quality": "quality",
    "guidance_start": "guidance_start",
    "guidance_end": "guidance_end",
    "seed": "seed",
    "resolution": "size",
    "audio_url": "audio",
}


@dataclass(frozen=True)
class Inert:
    """A field that changes nothing here. ``silent``: values that need no word; None: no value does."""

    why: str = ""
    silent: Sequence[object] | None = ()


OWN_CHECKS = "what is checked is decided by whoever runs this service"
OWN_ENCODER = "files are encoded in one way here"
INERT: Mapping[str, Inert] = {
    "acceleration": Inert("the model runs as it is served", ("none",)),
    "turbo_mode": Inert("the model runs as it is served", (False,)),
    "enable_safety_checker": Inert(OWN_CHECKS),
    "enable_output_safety_checker": Inert(OWN_CHECKS, (False,)),
    "video_quality": Inert(OWN_ENCODER, ("high",)),
    "video_write_mode": Inert(OWN_ENCODER, ("balanced",)),
    "enable_auto_downsample": Inert("clips are taken at the frame rate of the video to make", (False,)),
    "auto_downsample_min_fps": Inert("clips are taken at the frame rate of the video to make"),
    "video_type": Inert("clips of all kinds are taken alike", ("auto", "general")),
    # These mean nothing without what is refused below.
    "interpolator_model": Inert(silent=None),
    "adjust_fps_for_interpolation": Inert(silent=None),
    "task": Inert(silent=None),
}


@dataclass(frozen=True)
class NotBuilt:
    """A field that would change the video. ``fine``: values that ask for nothing."""

    why: str
    fine: Sequence[object] = (False,)


REFUSED: Mapping[str, NotBuilt] = {
    "reverse_video": NotBuilt("no video is reversed here"),
    "num_interpolated_frames": NotBuilt("no frames are interpolated here; give 0", (0,)),
    "multi_shots": NotBuilt("one shot is made; describe several in the prompt"),
    "sync_mode": NotBuilt("the answer names the video by its URL"),
    "return_frames_zip": NotBuilt("single frames are not kept"),
    "preprocess": NotBuilt("no control video is made of a clip"),
    "match_input_num_frames": NotBuilt("give num_frames"),
    "match_input_frames_per_second": NotBuilt("give frames_per_second"),
    "temporal_downsample_factor": NotBuilt("no frames are left out", (0,)),
    "transparency_mode": NotBuilt("pictures are taken without transparency", ("content_aware",)),
    "mask_image_url": NotBuilt("masks are not served", ()),
    "mask_video_url": NotBuilt("masks are not served", ()),
    "strength": NotBuilt("a clip is edited by instruction, at no strength", ()),
}


@dataclass(frozen=True)
class Sorted:
    """The fields of a request: those of `FalInput` by its names, how the client wrote them, what the job is to say of
    the others, and what is wrong with them."""

    plain: dict[str, Any]
    names: dict[str, str]
    warnings: tuple[str, ...]
    bad: list[Violation]


def sort_fields(given: Mapping[str, Any]) -> Sorted:
    """Tell the fields of a request apart; null is as if it were not there."""
    plain: dict[str, Any] = {}
    names: dict[str, str] = {}
    warnings: list[str] = []
    bad: list[Violation] = []
    for name, value in given.items():
        if value is None:
            continue
        if (inert := INERT.get(name)) is not None:
            if inert.silent is not None and not _is_one(value, inert.silent):
                warnings.append(f"{name} changes nothing: {inert.why}")
        elif (refused := REFUSED.get(name)) is not None:
            if not _is_one(value, refused.fine):
                bad.append(Violation(name, f"{short(value)} is not served: {refused.why}"))
        else:
            known = ALIASES.get(name, name)
            if known in plain:
                bad.append(Violation(name, f"means the same as {names.get(known, known)}, give one of them"))
            plain[known] = [value] if name in ONE_OF_MANY else value
            if known != name:
                names[known] = f"{name}." if name in ONE_OF_MANY else name
    return Sorted(plain, names, tuple(warnings), bad)


def _is_one(value: object, values: Sequence[object]) -> bool:
    """Compare without taking 0 for False."""
    return any(type(value) is type(one) and value == one for one in values)

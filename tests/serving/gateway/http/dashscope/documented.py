"""The requests that Alibaba's Model Studio pages show (text-to-video, image-to-video, first and last frame, reference
and video-edit references and guides, Wan 2.1 to 2.7): field for field, with prompts and media of our own.

With each stands what its job must be, and what it must say where it differs from what the page promises.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.serving.gateway.http.dashscope.kit import data
from tests.serving.gateway.http.samples import clip, picture, sound

# What stands for the addresses in the pages: pictures and clips of 16:9, one that is upright, a sound.
MEDIA = {
    "picture": data(picture(64, 36)),
    "picture 2": data(picture(64, 36, seed=1)),
    "picture 3": data(picture(64, 36, seed=2)),
    "upright": data(picture(36, 64)),
    "clip": data(clip(2.0, width=64, height=36), "video/mp4"),
    "clip 2": data(clip(2.0, width=64, height=36, seed=1), "video/mp4"),
    "long clip": data(clip(5.0, width=64, height=36), "video/mp4"),
    "sound": data(sound(), "audio/wav"),
}
NO_WATERMARK = "parameters.watermark: true, but this service draws none"
NOT_EXPANDED = "parameters.prompt_extend: true, but this service expands no prompts: yours is used as it is"
ONE_SHOT = "parameters.shot_type: multi is not used; describe the shots in the prompt"
NO_SOUND = "parameters.audio: true, but every-task makes no sound; give a track to have some"
NOT_WHOLE = "input.media: the video begins with the last frames of first_clip, it does not hold the whole clip"


@dataclass(frozen=True)
class Made:
    """What a job must be. ``media``: kinds by field."""

    kind: str
    size: str = "1280x720"
    seconds: float = 5.0
    media: dict[str, str] = field(default_factory=dict)
    audio: bool = False
    warnings: tuple[str, ...] = ()
    negative_prompt: str = ""
    more: dict[str, Any] = field(default_factory=dict)  # fields of its task


@dataclass(frozen=True)
class Case:
    says: str
    model: str
    input: dict[str, Any]
    parameters: dict[str, Any]
    made: Made
    path: str = "video-generation"


def one(kind: str, url: str, **more: str) -> dict[str, str]:
    return {"type": kind, "url": url, **more}


PROMPT = {"prompt": "a kitten runs in the moonlight"}
FIRST, LAST = one("first_frame", "picture"), one("last_frame", "picture 2")
AUDIO, START, SOURCE = one("driving_audio", "sound"), one("first_clip", "clip"), one("video", "long clip")
REFERENCES = [
    one("reference_image", "picture", reference_voice="sound"),
    one("reference_video", "clip", reference_voice="sound"),
    *(one("reference_image", name) for name in ("picture 2", "picture 3", "upright")),
]
FIVE = {f"references.{i}": "clip" if i == 1 else "image" for i in range(5)}
VOICES = tuple(f"input.media.{i}.reference_voice: is not used, for no voices are made here" for i in (0, 1))
EXTENDED = {"resolution": "720P", "prompt_extend": True, "watermark": True}
BOTH = (NO_WATERMARK, NOT_EXPANDED)

CASES = [
    # Wan 2.7, text to video
    Case(
        "several shots",
        "wan2.7-t2v-2026-06-12",
        PROMPT,
        {**EXTENDED, "ratio": "16:9", "duration": 15},
        Made("text_to_video", seconds=15, warnings=BOTH),
    ),
    Case(
        "a track of one's own",
        "wan2.7-t2v",
        {**PROMPT, "audio_url": "sound"},
        {**EXTENDED, "ratio": "16:9", "duration": 10},
        Made("text_to_video", seconds=10, audio=True, warnings=BOTH),
    ),
    Case(
        "what not to show",
        "wan2.7-t2v",
        {**PROMPT, "negative_prompt": "flowers"},
        {"resolution": "1080P", "ratio": "9:16", "prompt_extend": False, "watermark": False, "seed": 12345},
        Made(
            "text_to_video",
            "1080x1920",
            negative_prompt="flowers",
            warnings=(
                "size: denoised at 1088x1920, for every-task takes multiples of 16 pixels, and fitted to 1080x1920",
            ),
        ),
    ),
    # Wan 2.7, image to video: the six combinations of media that the page allows
    Case(
        "a first frame",
        "wan2.7-i2v-2026-04-25",
        {**PROMPT, "media": [FIRST]},
        {**EXTENDED, "duration": 10},
        Made("image_to_video", "1280x720", 10, {"image": "image"}, warnings=BOTH),
    ),
    Case(
        "a first frame and a track",
        "wan2.7-i2v-2026-04-25",
        {**PROMPT, "media": [FIRST, AUDIO]},
        {**EXTENDED, "duration": 10},
        Made("image_to_video", "1280x720", 10, {"image": "image"}, audio=True, warnings=BOTH),
    ),
    Case(
        "a first and a last frame",
        "wan2.7-i2v",
        {**PROMPT, "media": [FIRST, LAST]},
        {"resolution": "720P", "duration": 15, "prompt_extend": False, "watermark": True},
        Made(
            "first_last_frame",
            "1280x720",
            15 + 1 / 8,
            {"first_frame": "image", "last_frame": "image"},
            warnings=("frames: 121 in place of 120, so that the given picture is the last one", NO_WATERMARK),
        ),
    ),
    Case(
        "a first and a last frame and a track",
        "wan2.7-i2v",
        {"media": [FIRST, LAST, AUDIO]},
        {"resolution": "720P", "duration": 5, "prompt_extend": False},
        Made(
            "first_last_frame",
            "1280x720",
            5 + 1 / 8,
            {"first_frame": "image", "last_frame": "image"},
            audio=True,
            warnings=("frames: 41 in place of 40, so that the given picture is the last one",),
        ),
    ),
    Case(
        "a clip to go on with",
        "wan2.7-i2v-2026-04-25",
        {**PROMPT, "media": [START]},
        {"resolution": "720P", "duration": 12, "prompt_extend": False, "watermark": True},
        Made("image_to_video", "1280x720", 12, {"clip": "clip"}, warnings=(NOT_WHOLE, NO_WATERMARK)),
    ),
    Case(
        "the quick start: a clip to go on with, and the frame to end with",
        "wan2.7-i2v-2026-04-25",
        {**PROMPT, "media": [START, LAST]},
        {**EXTENDED, "duration": 12},
        Made(
            "image_to_video",
            "1280x720",
            12 + 1 / 8,
            {"clip": "clip", "last_frame": "image"},
            warnings=("frames: 97 in place of 96, so that the given picture is the last one", NOT_WHOLE, *BOTH),
        ),
    ),
    # Wan 2.7, reference to video
    Case(
        "the quick start: five references, two with voices",
        "wan2.7-r2v-2026-06-12",
        {"prompt": "Video 1 holds Image 3 and sits on Image 4", "media": REFERENCES},
        {"resolution": "720P", "ratio": "16:9", "duration": 10, "prompt_extend": False, "watermark": True},
        Made("reference_to_video", seconds=10, media=FIVE, warnings=(*VOICES, NO_WATERMARK)),
    ),
    Case(
        "one sheet of nine panels",
        "wan2.7-r2v",
        {**PROMPT, "media": [one("reference_image", "picture")]},
        {"resolution": "720P", "duration": 10, "prompt_extend": False, "watermark": True},
        Made("reference_to_video", seconds=10, media={"references.0": "image"}, warnings=(NO_WATERMARK,)),
    ),
    Case(
        "a first frame, whose ratio counts",
        "wan2.7-r2v",
        {**PROMPT, "media": [one("reference_video", "clip"), one("first_frame", "upright")]},
        {"resolution": "720P", "ratio": "16:9", "duration": 5},
        Made(
            "reference_to_video",
            "720x1280",
            media={"references.0": "clip", "first_frame": "image"},
            warnings=("parameters.ratio: 16:9 is not used, for the video has the ratio of its first frame",),
        ),
    ),
    Case(
        "a voice as a medium of its own",
        "wan2.7-r2v",
        {**PROMPT, "media": [one("reference_image", "picture"), one("reference_voice", "sound")]},
        {"resolution": "720P"},
        Made(
            "reference_to_video",
            media={"references.0": "image"},
            warnings=("input.media.1.url: is not used, for no voices are made here",),
        ),
    ),
    # Wan 2.7, video edit
    Case(
        "another style",
        "wan2.7-videoedit",
        {"prompt": "all of clay", "media": [SOURCE]},
        EXTENDED,
        Made("edit_video", media={"video": "clip"}, warnings=BOTH),
    ),
    Case(
        "clothes of a picture",
        "wan2.7-videoedit",
        {"prompt": "the coat of Image 1", "media": [SOURCE, one("reference_image", "upright")]},
        {**EXTENDED, "duration": 0, "audio_setting": "auto"},
        Made("edit_video", media={"video": "clip", "references.0": "image"}, warnings=BOTH),
    ),
    Case(
        "four pictures, cut short, the sound kept",
        "wan2.7-videoedit",
        {"prompt": "as shown", "media": [SOURCE, *(one("reference_image", "upright") for _ in range(4))]},
        {"resolution": "720P", "ratio": "1:1", "duration": 4, "audio_setting": "origin", "seed": 0},
        Made(
            "edit_video",
            "960x960",
            4,
            {"video": "clip", **{f"references.{i}": "image" for i in range(4)}},
            warnings=("keep_audio: the clip to edit has no sound, so the result has none",),
            more={"keep_audio": True},
        ),
    ),
    Case(
        "the largest size, which is the default there",
        "wan2.7-videoedit",
        {"prompt": "all of clay", "media": [SOURCE]},
        {"resolution": "1080P", "ratio": "16:9", "duration": 0},
        Made(
            "edit_video",
            "1920x1080",
            media={"video": "clip"},
            warnings=("size: edited at 1280x720, for clips are edited at 720p at most, and scaled to 1920x1080",),
        ),
    ),
    # Wan 2.6 and before, text to video
    Case(
        "2.6: several shots and a track",
        "wan2.6-t2v",
        {**PROMPT, "audio_url": "sound"},
        {"size": "1280*720", "prompt_extend": True, "duration": 10, "shot_type": "multi"},
        Made("text_to_video", seconds=10, audio=True, warnings=(NOT_EXPANDED, ONE_SHOT)),
    ),
    Case(
        "2.6: a negative prompt among the parameters",
        "wan2.6-t2v-us",
        PROMPT,
        {"size": "1088*832", "duration": 5, "shot_type": "single", "negative_prompt": "flowers"},
        Made("text_to_video", "1088x832", negative_prompt="flowers"),
    ),
    Case(
        "2.5: a track",
        "wan2.5-t2v-preview",
        {**PROMPT, "audio_url": "sound"},
        {"size": "832*480", "prompt_extend": True, "duration": 10},
        Made("text_to_video", "832x480", 10, audio=True, warnings=(NOT_EXPANDED,)),
    ),
    Case(
        "2.5: sound of its own",
        "wan2.5-t2v-preview",
        PROMPT,
        {"size": "832*480", "prompt_extend": True, "duration": 10},
        Made("text_to_video", "832x480", 10, warnings=(NOT_EXPANDED,)),
    ),
    Case(
        "2.2: silent",
        "wan2.2-t2v-plus",
        PROMPT,
        {"size": "832*480", "prompt_extend": True},
        Made("text_to_video", "832x480", warnings=(NOT_EXPANDED,)),
    ),
    Case(
        "2.2: a negative prompt",
        "wan2.2-t2v-plus",
        {**PROMPT, "negative_prompt": "flowers"},
        {"size": "832*480"},
        Made("text_to_video", "832x480", negative_prompt="flowers"),
    ),
    Case("2.1", "wanx2.1-t2v-turbo", PROMPT, {"size": "624*624"}, Made("text_to_video", "624x624")),
    # Wan 2.6 and before, image to video
    Case(
        "2.6: several shots",
        "wan2.6-i2v-flash",
        {**PROMPT, "img_url": "picture", "audio_url": "sound"},
        {"resolution": "720P", "prompt_extend": True, "duration": 10, "shot_type": "multi"},
        Made("image_to_video", seconds=10, media={"image": "image"}, audio=True, warnings=(NOT_EXPANDED, ONE_SHOT)),
    ),
    Case(
        "2.6: sound asked for",
        "wan2.6-i2v-flash",
        {**PROMPT, "img_url": "picture"},
        {"resolution": "720P", "audio": True, "watermark": False},
        Made("image_to_video", media={"image": "image"}, warnings=(NO_SOUND,)),
    ),
    Case(
        "2.6: silence asked for, which counts more than a track",
        "wan2.6-i2v-flash",
        {**PROMPT, "img_url": "picture", "audio_url": "sound"},
        {"resolution": "720P", "audio": False},
        Made(
            "image_to_video",
            media={"image": "image"},
            warnings=("parameters.audio: false, so the track that is given is not used",),
        ),
    ),
    Case(
        "2.5: sound of its own",
        "wan2.5-i2v-preview",
        {**PROMPT, "img_url": "picture"},
        {"resolution": "480P", "prompt_extend": True, "duration": 10},
        Made("image_to_video", "832x464", 10, {"image": "image"}, warnings=(NOT_EXPANDED,)),
    ),
    Case(
        "2.2: a picture alone",
        "wan2.2-i2v-plus",
        {"img_url": "picture"},
        {"resolution": "480P"},
        Made("image_to_video", "832x464", media={"image": "image"}),
    ),
    Case(
        "2.2: base64 without a prefix",
        "wan2.2-i2v-plus",
        {**PROMPT, "img_url": "bare picture"},
        {"resolution": "480P", "prompt_extend": True},
        Made("image_to_video", "832x464", media={"image": "image"}, warnings=(NOT_EXPANDED,)),
    ),
    Case(
        "2.2: first and last frame",
        "wan2.2-kf2v-flash",
        {**PROMPT, "first_frame_url": "picture", "last_frame_url": "picture 2"},
        {"resolution": "480P", "prompt_extend": True, "watermark": True, "duration": 5},
        Made(
            "first_last_frame",
            "832x464",
            5 + 1 / 8,
            {"first_frame": "image", "last_frame": "image"},
            warnings=("frames: 41 in place of 40, so that the given picture is the last one", *BOTH),
        ),
        path="image2video",
    ),
    # Wan 2.6, reference to video
    Case(
        "2.6: pictures and clips",
        "wan2.6-r2v-flash",
        {"prompt": "character1 greets character2", "reference_urls": ["clip", "clip 2", "picture", "picture 2"]},
        {"size": "1280*720", "duration": 10, "audio": True, "shot_type": "multi", "watermark": True},
        Made(
            "reference_to_video",
            seconds=10,
            media={"references.0": "clip", "references.1": "clip", "references.2": "image", "references.3": "image"},
            warnings=(NO_WATERMARK, ONE_SHOT, NO_SOUND),
        ),
    ),
    Case(
        "2.6: clips, by the older field",
        "wan2.6-r2v",
        {"prompt": "character1 dances", "reference_video_urls": ["clip"]},
        {"size": "1280*720", "duration": 5, "audio": False, "shot_type": "multi"},
        Made("reference_to_video", media={"references.0": "clip"}, warnings=(ONE_SHOT,)),
    ),
]


def named(value: Any) -> Any:
    """Put media in the place of their names."""
    if isinstance(value, dict):
        return {key: named(item) for key, item in value.items()}
    if isinstance(value, list):
        return [named(item) for item in value]
    if isinstance(value, str) and value.startswith("bare "):
        return MEDIA[value.removeprefix("bare ")].partition(",")[2]
    return MEDIA.get(value, value) if isinstance(value, str) else value

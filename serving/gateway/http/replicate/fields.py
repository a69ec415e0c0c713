"""The inputs of the models that the Replicate API offers.

The fields are those of the public wan-video models on Replicate, with the names that their earlier versions had
(`ALIASES`), and steps, guidance, frames and frame rate besides. An unknown field is refused: a client
that is told nothing would take its video for what it asked for.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

from zoetrope.model.request.sizes import size_name
from zoetrope.model.request.tasks import PANELS, Container, Fit, Quality, RequestLora, SamplerName, Seed

# What a field was called in earlier versions of the public models, or is called by other services and by our own API.
ALIASES = {
    "ratio": "aspect_ratio",
    "sample_steps": "num_inference_steps",
    "steps": "num_inference_steps",
    "sample_guide_scale": "guidance_scale",
    "guide_scale": "guidance_scale",
    "guidance": "guidance_scale",
    "guidance_low": "guidance_scale_2",
    "shift": "flow_shift",
    "sample_shift": "flow_shift",
    "fps": "frames_per_second",
    "frame_num": "num_frames",
    "frames": "num_frames",
    "duration_seconds": "duration",
    "container": "output_format",
    "prompt_extend": "enable_prompt_expansion",
    "prompt_expansion": "enable_prompt_expansion",
    "prompt_optimizer": "enable_prompt_expansion",
    "optimize_prompt": "enable_prompt_expansion",
    "image": "first_frame",
    "last_image": "last_frame",
    "driving_audio": "audio",
    "sample_solver": "sampler",
}
# What to say of a field of the public models that changes nothing here, if it asks for something.
INERT = {
    "watermark": "this service draws none",
    "go_fast": "the operator chooses how fast a model runs",
    "fast_mode": "the operator chooses how fast a model runs",
    "disable_safety_checker": "the operator decides what is checked",
    "lora_scale": "loras gives each adapter its own strength",
    "lora_scale_transformer": "loras gives each adapter its own strength",
    "lora_scale_transformer_2": "loras gives each adapter its own strength",
}
NOTHING = (None, False, "Off")  # values of these that ask for nothing
AREAS = {"832x480": "480p", "480x832": "480p", "1280x720": "720p", "720x1280": "720p"}  # of max_area


def _resolution(value: object) -> object:
    return size_name(value) if isinstance(value, str) else value


def _not_built(why: str) -> AfterValidator:
    """Refuse a field that asks for what would change the video and does not exist here."""

    def check(value: Any) -> Any:
        if value:
            raise ValueError(why)
        return value

    return AfterValidator(check)


Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]  # whole numbers that JSON can carry
AspectRatio = Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "9:21"]  # model.request.sizes.RATIOS
Resolution = Annotated[Literal["480p", "720p", "1080p"], BeforeValidator(_resolution)]
Weights: TypeAlias = Annotated[str | None, _not_built("a LoRA cannot be a file or URL; name registered ones in loras")]
Url = Field(default=None, min_length=1, json_schema_extra={"format": "uri"})
DEPRECATED: JsonDict = {"deprecated": True}  # pydantic's own mark warns at every look at the value
Old = Field(
    default=None, description="Of earlier versions; without effect, but for a warning.", json_schema_extra=DEPRECATED
)
Refused = Field(default=None, description="Of earlier versions; not built.", json_schema_extra=DEPRECATED)


class WanInput(BaseModel):
    """What all models take. Fields that are left out, or null, are the service's to choose."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(default="", description="What the video shows; edits: what is to change.")
    negative_prompt: str | None = Field(
        default=None, description='What it should not show. Default: the served model\'s own; "" switches that off.'
    )
    resolution: Resolution = Field(
        default="720p", description="Or in capitals. Clips are edited at 720p at most, then scaled."
    )
    size: str | None = Field(default=None, description="WIDTH*HEIGHT in pixels, in place of resolution and ratio.")
    aspect_ratio: AspectRatio | None = Field(
        default=None, description="By default that of the picture or clip, where there is one, else 16:9."
    )
    fit: Fit | None = Field(
        default=None,
        description="How a picture or clip of another ratio enters the frame: cover, the default, cuts what stands out;"
        " contain puts black beside it.",
    )
    duration: float | None = Field(default=None, description="Seconds; default: the served model's.")
    num_frames: Whole | None = Field(default=None, description="In place of duration.")
    frames_per_second: Whole | None = Field(default=None, description="Default: the served model's.")
    num_inference_steps: Whole | None = Field(default=None, description="Default: the served model's.")
    guidance_scale: float | None = Field(default=None, description="Default: the served model's.")
    guidance_scale_2: float | None = Field(
        default=None, description="Of the low-noise expert, for models that have two noise experts."
    )
    flow_shift: float | None = Field(
        default=None, description="Shift of the noise levels, 0.01 to 100. Default: the served model's."
    )
    sampler: SamplerName | None = Field(default=None, description="Default: the served model's.")
    quality: Quality | None = Field(
        default=None,
        description="Steps that are computed in full: exact, the default, all; balanced about half, fast fewer.",
    )
    guidance_start: float | None = Field(default=None, description="Share of the steps from which guidance acts.")
    guidance_end: float | None = Field(default=None, description="Share of the steps up to which guidance acts.")
    loras: list[RequestLora] | None = Field(default=None, description="Registered adapters, at most two.")
    seed: Seed | None = None
    output_format: Container | None = Field(
        default=None,
        description="mp4, the default, or mkv without loss; png and webp (both without loss) or jpg make a picture of"
        " one frame.",
    )
    enable_prompt_expansion: bool | None = Field(
        default=None,
        description="Have the prompt rewritten. Without effect, but for a warning, where the service has no such hook."
        " Off by default.",
    )
    watermark: bool | None = Field(default=None, description="None is ever added; true leads to a warning.")
    go_fast: bool | None = Old
    fast_mode: Literal["Off", "Balanced", "Fast"] | None = Old
    disable_safety_checker: bool | None = Old
    lora_scale: float | None = Old
    lora_scale_transformer: float | None = Old
    lora_scale_transformer_2: float | None = Old
    lora_weights: Weights = Refused
    lora_weights_transformer: Weights = Refused
    lora_weights_transformer_2: Weights = Refused
    replicate_weights: Weights = Refused
    interpolate_output: Annotated[bool | None, _not_built("true, but frames are not interpolated here")] = Refused
    multi_shots: Annotated[bool | None, _not_built("true, but it is not built: describe the shots in the prompt")] = (
        Refused
    )

    def inert(self) -> list[str]:
        """List warnings about what was asked for and changes nothing."""
        asked = {name: getattr(self, name) for name in INERT}
        return [f"{name} changes nothing: {INERT[name]}" for name, value in asked.items() if value not in NOTHING]


class SoundInput(WanInput):
    """Of models whose videos can be given a track."""

    audio: str | None = Field(
        default=None, min_length=1, description="A track to put beside the frames.", json_schema_extra={"format": "uri"}
    )


class TextInput(SoundInput):
    """A clip from words alone."""

    prompt: str = Field(description="What the video shows.")


class ImageInput(SoundInput):
    """Give first_frame, first_frame and last_frame, first_clip, or images."""

    first_frame: str | None = Url
    last_frame: str | None = Url
    first_clip: str | None = Field(default=None, min_length=1, description="The video goes on where this one ends.")
    images: list[str] | None = Field(
        default=None, description=f"A storyboard: {PANELS} pictures, or one sheet of three rows of three."
    )
    loop: bool | None = Field(default=None, description="End with the frame it starts with.")
    max_area: Literal["832x480", "480x832", "1280x720", "720x1280"] | None = Field(
        default=None,
        description="Of earlier versions: resolution, with the picture's own ratio.",
        json_schema_extra=DEPRECATED,
    )


class ReferenceInput(SoundInput):
    """A clip of what pictures or clips show; the prompt calls them "Image 1", "Video 1"."""

    prompt: str = Field(description="What the video shows.")
    reference_images: list[str] = Field(default=[], description="With reference_videos at most five.")
    reference_videos: list[str] = []
    first_frame: str | None = Url
    shot_type: Literal["single"] | None = Field(default=None, description="Describe several shots in the prompt.")


class EditInput(WanInput):
    """A clip changed by an instruction."""

    prompt: str = Field(description="What is to change; the rest stays.")
    video: str = Field(min_length=1, description="2 to 10 seconds.", json_schema_extra={"format": "uri"})
    reference_image: str | None = Url
    reference_images: list[str] = Field(default=[], description="At most four, with reference_image.")
    duration: float | None = Field(default=None, description="Seconds from the start; 0, the default: all of it.")
    audio_setting: Literal["auto", "origin"] | None = Field(
        default=None, description="origin: keep the track. auto is silent, for the model makes no sound."
    )

"""A request with every default filled in, and the runs that make its clip. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter

from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.profile import Profile
from zoetrope.model.request.tasks import MAX_SEED, Container, Fit, Quality, RequestLora, SamplerName, Task

_TASK: TypeAdapter[Task] = TypeAdapter(Task)


@dataclass(frozen=True)
class SegmentFrames:
    """The frames of a clip that one segment makes: ``frames`` of them from ``first``, the first ``known`` of which it
    takes over from the segment before it."""

    first: int
    frames: int
    known: int


@dataclass(frozen=True)
class VideoSpec:
    """A request with every default filled in and every limit checked, as the engine and the decoder take it."""

    model: str
    task: Task
    width: int  # of the file
    height: int
    native_width: int  # of the clip that is denoised
    native_height: int
    frames: int  # in the file
    fps: int
    model_frames: int  # that the autoencoder gives back; those past `frames` are cut
    latent_shape: tuple[int, int, int, int]  # C, T, H, W of the whole clip
    temporal: int  # frames per latent frame after the first
    spans: tuple[SegmentFrames, ...]
    steps: int  # of each segment
    guidance: float
    guidance_low: float | None
    seed: int
    container: Container
    keep_latents: bool
    audio: str | None = None  # the track to put beside the frames
    tiling: tuple[int, int, int] | None = None  # height, width, overlap, if the decoder lacks memory for whole frames
    fit: Fit = "cover"
    flow_shift: float | None = None  # None: the checkpoint's own
    profile: Profile | None = None  # of a few-step distill; it decides the schedule
    warnings: tuple[str, ...] = ()  # how the request was understood, if that may surprise
    sampler: SamplerName | None = None  # None: the checkpoint's own
    quality: Quality = "exact"
    step_mask: str = ""  # of `model.caching.mask`; "": every step is computed
    guidance_start: float = 0.0  # see `model.request.steps`
    guidance_end: float = 1.0
    loras: tuple[RequestLora, ...] = ()  # as asked for
    adapters: tuple[AdapterUse, ...] = ()  # what these are
    beside: tuple[int, ...] = ()  # tokens of a sequence that are not the clip's, for each span
    branches: int = 2  # of guidance, where it acts

    @property
    def prompt(self) -> str:
        return self.task.prompt

    @property
    def negative_prompt(self) -> str:
        """The negative prompt; `model.request.resolve` has replaced None by the model's default."""
        return self.task.negative_prompt or ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        listed = {"loras": [lora.model_dump(mode="json") for lora in self.loras]}
        return {**asdict(self), "task": self.task.model_dump(mode="json"), **listed}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VideoSpec:
        """Invert `to_dict`, also after a round trip through JSON, which has no tuples."""
        c, t, h, w = data["latent_shape"]
        spans = tuple(SegmentFrames(**span) for span in data["spans"])
        read = {
            "task": _TASK.validate_python(data["task"]),
            "tiling": None if data.get("tiling") is None else tuple(data["tiling"]),
            "profile": None if data.get("profile") is None else Profile.from_dict(data["profile"]),
            "warnings": tuple(data.get("warnings", ())),
            "loras": tuple(RequestLora.model_validate(lora) for lora in data.get("loras", ())),
            "adapters": tuple(AdapterUse(**adapter) for adapter in data.get("adapters", ())),
            "beside": tuple(data.get("beside", ())),
        }
        return cls(**{**data, **read, "latent_shape": (c, t, h, w), "spans": spans})


@dataclass(frozen=True)
class SegmentSpec:
    """One denoising run. ``id`` is unique per lease epoch of a job, so that a stale segment is recognised."""

    id: str
    latent_shape: tuple[int, int, int, int]  # C, T, H, W
    steps: int
    guidance: float
    seed: int
    guidance_low: float | None = None  # of the low-noise expert; None: as the other
    kind: str = "text_to_video"  # of the task, which decides the guidance of some checkpoints
    flow_shift: float | None = None  # of the schedule; None: the checkpoint's own
    sampler: SamplerName | None = None  # None: the checkpoint's own
    step_mask: str = ""  # of `model.caching.mask`; "": every step is computed
    guidance_start: float = 0.0  # share of the steps from which guidance acts
    guidance_end: float = 1.0  # share of the steps up to which it acts
    loras: tuple[AdapterUse, ...] = ()  # a segment that lacks one must not run
    profile: Profile | None = None  # of a few-step distill; it decides the schedule
    beside: int = 0  # tokens of a sequence that are not the clip's: sources, an ending
    branches: int = 2  # of guidance, where it acts


def segment_of(spec: VideoSpec, segment_id: str, index: int = 0) -> SegmentSpec:
    """Return the run that makes one span of a clip; each has its own noise."""
    span = spec.spans[index]
    c, _, h, w = spec.latent_shape
    return SegmentSpec(
        id=segment_id,
        latent_shape=(c, 1 + (span.frames - 1) // spec.temporal, h, w),
        steps=spec.steps,
        guidance=spec.guidance,
        seed=(spec.seed + index) % (MAX_SEED + 1),
        guidance_low=spec.guidance_low,
        kind=spec.task.kind,
        flow_shift=spec.flow_shift,
        sampler=spec.sampler,
        step_mask=spec.step_mask,
        guidance_start=spec.guidance_start,
        guidance_end=spec.guidance_end,
        loras=spec.adapters,
        profile=spec.profile,
        beside=spec.beside[index] if spec.beside else 0,
        branches=spec.branches,
    )

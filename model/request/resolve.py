"""Resolve a request for a model: fill in every default, check every limit. Needs no torch."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence

from zoetrope.model.request.loras import AdapterUse
from zoetrope.model.request.media_rules import media_violations
from zoetrope.model.request.profile import locked_values
from zoetrope.model.request.sampling_rules import sampling_violations
from zoetrope.model.request.savings import Savings, interval_violations, savings_of
from zoetrope.model.request.schema_errors import short
from zoetrope.model.request.segments import split
from zoetrope.model.request.sequence_tokens import with_sequences
from zoetrope.model.request.sizes import (
    RATIOS,
    SIZES,
    Size,
    denoised_size,
    nearest_ratio,
    size_like,
    size_name,
    size_of,
)
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import (
    MAX_DURATION_SECONDS,
    MAX_EDIT_PIXELS,
    MAX_FPS,
    MAX_GUIDANCE,
    MAX_NEGATIVE_CHARS,
    MAX_PROMPT_CHARS,
    MAX_SEED,
    MAX_STEPS,
    MEDIA_FIELDS,
    PICTURE_CONTAINERS,
    PROMPT_REQUIRED,
    RANDOM_SEED,
    EditVideo,
    FirstLastFrame,
    ImageToVideo,
    InvalidRequest,
    MediaInfo,
    ModelCard,
    ReferenceToVideo,
    VideoRequest,
    Violation,
    media_of,
)
from zoetrope.model.request.tiles import tiles_for

NATIVE_RATIOS = RATIOS[:5]  # of files for models with native sizes, if the request names no ratio
NO_MEDIA: Mapping[str, MediaInfo] = {}


def resolve(
    request: VideoRequest,
    card: ModelCard,
    random_seed: int,
    media: Mapping[str, MediaInfo] = NO_MEDIA,
    adapters: Sequence[AdapterUse] = (),
) -> VideoSpec:
    """Fill in the model's defaults and check every limit at once.

    Args:
        random_seed: used when the request names no seed, so that the job records the one it ran with.
        media: what is known of each of the task's media, by the field that names it (`media_of`).
        adapters: what the request's adapters are, in their order; only a service has any.

    Raises:
        InvalidRequest: lists every field at fault with its value and limit.
    """
    return with_sequences(_Resolution(request, card, random_seed, media, adapters).result(), card, media)


class _Resolution:
    """One request being checked: ``bad`` collects violations, ``warnings`` oddities."""

    def __init__(
        self,
        request: VideoRequest,
        card: ModelCard,
        random_seed: int,
        media: Mapping[str, MediaInfo],
        adapters: Sequence[AdapterUse],
    ) -> None:
        self.request = request
        self.card = card
        self.media = media
        self.adapters = tuple(adapters)
        self.random_seed = random_seed
        self.bad: list[Violation] = []
        self.warnings: list[str] = []

    def result(self) -> VideoSpec:
        request, card, task = self.request, self.card, self.request.task
        self.check(
            task.kind in card.tasks,
            "task",
            f"{task.kind} is not served by {card.name}, which serves {', '.join(card.tasks)}",
        )
        self.check_text("prompt", task.prompt, MAX_PROMPT_CHARS, required=task.kind in PROMPT_REQUIRED)
        negative = card.default_negative_prompt if task.negative_prompt is None else task.negative_prompt
        self.check_text("negative_prompt", negative, MAX_NEGATIVE_CHARS, required=False)
        self.check_media()
        self.check(
            card.audio or not request.generate_audio,
            "generate_audio",
            f"true, but {card.name} makes no sound; give a track as audio to have it put beside the frames",
        )
        if isinstance(task, EditVideo):
            self.check(
                not (task.keep_audio and request.audio),
                "audio",
                "cannot be combined with keep_audio",
            )
        fps = card.fps if request.fps is None else request.fps
        self.check(1 <= fps <= MAX_FPS, "fps", f"{fps} must be from 1 to {MAX_FPS}")
        self.bad += media_violations(task, card, self.media, min(fps, MAX_FPS))
        before = len(self.bad)
        frames = self.frames(fps)
        if len(self.bad) == before:  # otherwise the length is not one that was asked for
            self.check_picture(frames)
        self.check_profile()
        steps = card.default_steps if request.steps is None else request.steps
        self.check(1 <= steps <= MAX_STEPS, "steps", f"{steps} must be from 1 to {MAX_STEPS}")
        guidance = card.default_guidance if request.guidance is None else request.guidance
        self.check_guidance("guidance", guidance)
        seed = self.random_seed if request.seed in (None, RANDOM_SEED) else request.seed
        inside = f"must be from 0 to {MAX_SEED}, or {RANDOM_SEED} for a random seed"
        self.check(0 <= seed <= MAX_SEED, "seed", f"{short(seed)} {inside}")
        size = self.size()
        guidance_low = self.guidance_low(guidance)
        self.bad += sampling_violations(request, card)
        known = len(self.adapters) == len(request.loras)
        self.check(known or bool(self.bad), "loras", "are of a service, which has registered adapters")
        saved = self.savings(steps, self.flow_shift())
        if self.bad or size is None:
            raise InvalidRequest(*self.bad)

        native = self.denoised_size(size)
        audio = self.audio()
        model_frames = _snap(frames, card.temporal)
        if self.ends_with_picture and frames != model_frames:
            given = "so that the given picture is the last one"
            self.warnings.append(f"frames: {model_frames} in place of {frames}, {given}")
            frames = model_frames
        longest = card.segment_frames if card.overlap_frames and card.segment_frames else model_frames
        return VideoSpec(
            model=card.name,
            task=task.model_copy(update={"negative_prompt": negative}),
            width=size[0],
            height=size[1],
            native_width=native[0],
            native_height=native[1],
            frames=frames,
            fps=fps,
            model_frames=model_frames,
            latent_shape=(
                card.latent_channels,
                1 + (model_frames - 1) // card.temporal,
                native[1] // card.spatial,
                native[0] // card.spatial,
            ),
            temporal=card.temporal,
            spans=split(model_frames, longest, card.overlap_frames or 1, card.temporal),
            steps=steps,
            guidance=guidance,
            guidance_low=guidance_low,
            seed=seed,
            container=request.container,
            keep_latents=request.keep_latents,
            tiling=tiles_for(*native),
            audio=audio,
            fit=request.fit,
            flow_shift=self.flow_shift(),
            profile=card.profile,
            warnings=tuple(self.warnings),
            sampler=None if card.profile is not None else request.sampler,
            quality=request.quality,
            step_mask=saved.step_mask,
            guidance_start=request.guidance_start,
            guidance_end=request.guidance_end,
            loras=request.loras,
            adapters=self.adapters,
        )

    def check(self, ok: bool, field: str, description: str) -> None:
        if not ok:
            self.bad.append(Violation(field, description))

    def check_text(self, field: str, text: str, limit: int, *, required: bool) -> None:
        self.check(not required or bool(text.strip()), field, "is empty")
        self.check(len(text) <= limit, field, f"has {len(text)} characters, at most {limit} are allowed")
        if text.isprintable():
            return
        control = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t"), None)
        if control is not None:
            self.check(False, field, f"has the control character U+{ord(control):04X}, which is not allowed")

    def check_guidance(self, field: str, value: float) -> None:
        inside = math.isfinite(value) and 0 <= value <= MAX_GUIDANCE
        self.check(inside, field, f"{value} must be from 0 to {MAX_GUIDANCE:g}")

    def guidance_low(self, guidance: float) -> float | None:
        """Return the low-noise expert's scale; as in diffusers, the other's if the request names only that one."""
        request, card = self.request, self.card
        if card.boundary is None:
            self.check(
                request.guidance_low is None,
                "guidance_low",
                f"{request.guidance_low} given, but {card.name} has no two noise experts",
            )
            return None
        value = request.guidance_low
        if value is None:
            value = guidance if request.guidance is not None else card.default_guidance_low
        if value is not None:
            self.check_guidance("guidance_low", value)
        return value

    def check_profile(self) -> None:
        """Check that nothing contradicts the profile of a few-step distill; what equals it is accepted."""
        profile, request = self.card.profile, self.request
        if profile is None:
            return
        given, fixed = dict(request), locked_values(profile, two_experts=self.card.boundary is not None)
        for field, value in fixed.items():
            if given.get(field) not in (None, value):
                told = "has none" if value is None else f"locks it to {short(value)}"
                self.check(False, field, f"{short(given[field])} given, but the profile {profile.name} {told}")
        if request.task.negative_prompt and max(profile.guidance) <= 1:
            self.warnings.append(f"negative_prompt: is ignored, since profile {profile.name} needs no second branch")

    def flow_shift(self) -> float | None:
        """Return the shift of the schedule; None if a profile lists the noise levels, or the model has none."""
        card, given = self.card, self.request.flow_shift
        if card.profile is not None:
            return None
        return card.default_flow_shift if given is None else given

    def savings(self, steps: int, flow_shift: float | None) -> Savings:
        """Choose the steps to compute, if the fields they depend on are right."""
        fields = {violation.field for violation in self.bad}
        if fields & {"task", "steps", "flow_shift"}:
            saved = Savings(bad=tuple(interval_violations(self.request)))
        else:
            saved = savings_of(self.request, self.card, steps, flow_shift)
        self.bad += saved.bad
        self.warnings += saved.warnings
        return saved

    def check_picture(self, frames: int) -> None:
        """Check that a picture has one frame, and that one frame is not to lead from a first to a last picture."""
        request = self.request
        if frames == 1 and self.ends_with_picture:
            self.check(False, "frames", "1 cannot lead from a first to a last frame, give 2 or more")
        if request.container not in PICTURE_CONTAINERS:
            return
        self.check(frames == 1, "container", f"{request.container} holds one frame, but {frames} are asked for")
        self.check(not request.audio, "audio", f"is given, but {request.container} holds no sound")
        kept = isinstance(request.task, EditVideo) and request.task.keep_audio
        self.check(not kept, "keep_audio", f"is given, but {request.container} holds no sound")

    @property
    def ends_with_picture(self) -> bool:
        """Whether the last frame of the clip is given."""
        task = self.request.task
        if isinstance(task, ImageToVideo):
            return task.loop or task.last_frame is not None
        return isinstance(task, FirstLastFrame)

    def audio(self) -> str | None:
        """Return the track to put beside the frames."""
        task = self.request.task
        if not (isinstance(task, EditVideo) and task.keep_audio):
            return self.request.audio
        source = self.media.get("video")
        if source is not None and not source.has_audio:
            self.warnings.append("keep_audio: the clip to edit has no sound, so the result has none")
            return None
        return task.video

    def check_media(self) -> None:
        """Check that each medium is of the right kind, and that there are not too many."""
        task, card = self.request.task, self.card
        for field in media_of(task):
            info = self.media.get(field)
            if info is None:
                continue  # not examined: the caller checks only the form of a request
            wanted = MEDIA_FIELDS[field.partition(".")[0]].takes.kind
            if wanted == "image":
                self.check(info.kind == "image", field, f"is a clip of {info.frames} frames, give a picture")
            elif wanted == "clip":
                self.check(info.kind == "clip", field, "is a picture, give a clip")
        if isinstance(task, ReferenceToVideo | EditVideo):
            count, limit = len(task.references), card.max_references
            self.check(count <= limit, "references", f"has {count} entries, at most {limit} for {card.name}")
        source = self.media.get("video")
        if source is not None and source.kind == "clip":
            low, high = MEDIA_FIELDS["video"].takes.min_seconds, MEDIA_FIELDS["video"].takes.max_seconds
            self.check(
                low - 0.1 <= source.seconds <= high + 0.1,
                "video",
                f"lasts {source.seconds:.2f} s, clips to edit last {low:g} to {high:g} s",
            )

    def frames(self, fps: int) -> int:
        """Return the file's number of frames: as asked for, else the source's, else the model's default; 1 if a limit
        is broken."""
        request, card = self.request, self.card
        fps = min(fps, MAX_FPS)  # a larger one is already refused, and may be too large to compute with
        if request.frames is not None and request.duration_seconds is not None:
            self.check(False, "frames", f"{request.frames} cannot be combined with duration_seconds")
            return 1
        longest = min(MAX_DURATION_SECONDS, card.max_frames / max(fps, 1))
        source = self.media.get("video")
        seconds = request.duration_seconds
        if request.frames is None and seconds is None and request.container in PICTURE_CONTAINERS:
            return 1
        if source is not None and source.kind == "clip" and fps >= 1:
            available = max(1, round(source.seconds * fps))
            wanted = request.frames if request.frames is not None else None if seconds is None else seconds * fps
            if wanted is None:
                seconds = min(source.seconds, longest)
            elif wanted > available:
                field = "frames" if request.frames is not None else "duration_seconds"
                given = request.frames if request.frames is not None else seconds
                self.check(False, field, f"{given} is longer than the clip to edit, which has {available} frames")
                return 1
        if seconds is None:
            frames = card.default_frames if request.frames is None else request.frames
            inside = 1 <= frames <= card.max_frames
            self.check(inside, "frames", f"{frames} must be from 1 to {card.max_frames} for {card.name}")
            return frames if inside else 1
        if not (math.isfinite(seconds) and 0 < seconds <= longest):
            limit = f"must be above 0 and at most {longest:.4g} for {card.name} at {fps} fps"
            self.check(False, "duration_seconds", f"{seconds} {limit}")
            return 1
        return max(1, round(seconds * fps))

    def size(self) -> Size | None:
        """Return the file's width and height: as asked for, or with the ratio of the given picture or clip."""
        request = self.request
        given = self.card.default_size if request.size is None else request.size
        name = size_name(given)
        if request.ratio is not None and request.ratio not in RATIOS:
            self.check(False, "ratio", f"{short(request.ratio)} is not one of {', '.join(RATIOS)}")
            return None
        shown = self.shown()
        if request.ratio is None and shown is not None and name in SIZES:
            size = self.size_like((shown.width, shown.height), name)
        else:
            if request.ratio is not None and name not in SIZES:
                self.warnings.append(f"ratio: {request.ratio} is not used beside a size in pixels")
            try:
                size = size_of(given, request.ratio or RATIOS[0])
            except ValueError as error:
                self.check(False, "size", str(error))
                return None
        return size

    def shown(self) -> MediaInfo | None:
        """Return the picture or clip whose shape the result takes."""
        order = ("image", "clip", "first_frame", "video", "panels.0")
        return next((self.media[field] for field in order if field in self.media), None)

    def size_like(self, shown: Size, name: str) -> Size:
        """Return the size with the area of a named size and the ratio of ``shown``, or the nearest that the model can
        do."""
        card, sizes = self.card, SIZES[name]
        if card.native_sizes:
            return nearest_ratio(shown, [sizes[ratio] for ratio in NATIVE_RATIOS])
        trained = card.trained_sizes[0] if card.trained_sizes and name == card.default_size else sizes[RATIOS[0]]
        return size_like(shown, math.prod(trained), card.size_multiple)

    def denoised_size(self, size: Size) -> Size:
        """Return the size to denoise at; if it differs from the file's, the decoder scales and crops."""
        card = self.card
        denoised = denoised_size(size, card.size_multiple, card.native_sizes, card.trained_sizes)
        if self.request.task.kind == "edit_video" and min(math.prod(size), math.prod(denoised)) > MAX_EDIT_PIXELS:
            denoised = size_like(size, MAX_EDIT_PIXELS, card.size_multiple)
            self.warnings.append(
                f"size: edited at {denoised[0]}x{denoised[1]}, for clips are edited at 720p at most, and scaled to "
                f"{size[0]}x{size[1]}"
            )
        elif denoised != size and not card.native_sizes:
            self.warnings.append(
                f"size: denoised at {denoised[0]}x{denoised[1]}, for {card.name} takes multiples of "
                f"{card.size_multiple} pixels, and fitted to {size[0]}x{size[1]}"
            )
        return denoised


def _snap(frames: int, temporal: int) -> int:
    """Round up to a number of frames that the autoencoder gives."""
    return math.ceil((frames - 1) / temporal) * temporal + 1

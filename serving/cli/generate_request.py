"""The options of `zoetrope generate`, and the checks of them that need neither a model nor a service."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from zoetrope.model.request.sizes import RATIOS
from zoetrope.model.request.tasks import MEDIA_FIELDS
from zoetrope.serving.api.formats import SUFFIXES, container_of
from zoetrope.serving.api.names import MEDIA, OPERATIONS, VIDEOS
from zoetrope.serving.cli.errors import CliError, bad_input
from zoetrope.serving.cli.load_options import NONE_GIVEN, ModelLoadOptions
from zoetrope.serving.cli.options import LabelOption, SeedOption, labels_of, option

DEFAULT_MODEL = "nano"  # of a run without a service
MAX_DEADLINE_SECONDS = 365 * 86_400.0
STORED = (MEDIA, OPERATIONS, VIDEOS)  # what names of a service begin with
# Options that the request has under the same names.
SAME_NAMES = (
    *("size", "ratio", "fit", "frames", "fps", "steps", "guidance", "guidance_low", "flow_shift", "seed"),
    *("sampler", "quality", "guidance_start", "guidance_end"),
)


@dataclass(frozen=True)
class TaskMedia:
    """The files that `generate` was given, which decide the kind of task."""

    image: Annotated[Path | None, option("FILE", "First frame.", "none")] = None
    last_image: Annotated[Path | None, option("FILE", "Last frame, beside --image or --clip.", "none")] = None
    loop: Annotated[bool, typer.Option("--loop", help="End on the first frame.")] = False
    clip: Annotated[Path | None, option("FILE", "Clip to continue.", "none")] = None
    panels: Annotated[
        Sequence[Path],
        option("FILE", "Panel of a 3x3 storyboard; repeat for nine, or give one sheet of them.", "none", "--panel"),
    ] = ()
    references: Annotated[
        Sequence[Path], option("FILE", "Picture or clip of what to show; repeatable, up to 5.", "none", "--reference")
    ] = ()
    video: Annotated[Path | None, option("FILE", "Clip to edit; PROMPT says how.", "none")] = None
    keep_audio: Annotated[bool, typer.Option("--keep-audio", help="Keep the audio of --video.")] = False

    def task(self) -> dict[str, Any]:
        """Return the kind and media of the task.

        Raises:
            CliError: the files belong to two kinds of task.
        """
        kind, fields, allowed = self._kind()
        given = {f.name for f in dataclasses.fields(self) if getattr(self, f.name)}
        surplus = sorted(given - allowed)
        if surplus:
            raise bad_input(surplus[0].replace("_", "-").removesuffix("s"), f"does not go with a task of kind {kind}")
        return {"kind": kind, **fields}

    def _kind(self) -> tuple[str, dict[str, Any], set[str]]:
        """Return the kind, its fields, and the options that belong to it."""
        references = [str(path) for path in self.references]
        if self.video is not None:
            fields = {"video": str(self.video), "references": references, "keep_audio": self.keep_audio}
            return "edit_video", fields, {"video", "references", "keep_audio"}
        if self.panels:
            return "grid_to_video", {"panels": [str(path) for path in self.panels]}, {"panels"}
        if self.references:
            first = {"first_frame": str(self.image)} if self.image is not None else {}
            return "reference_to_video", {"references": references, **first}, {"references", "image"}
        last = {} if self.last_image is None else {"last_frame": str(self.last_image)}
        if self.clip is not None and self.image is None:
            return "image_to_video", {"clip": str(self.clip), **last}, {"clip", "last_image"}
        if self.last_image is not None:
            if self.image is None:
                raise bad_input("last-image", "needs --image, the first frame, or --clip")
            return "first_last_frame", {"first_frame": str(self.image), **last}, {"image", "last_image"}
        if self.image is not None:
            return "image_to_video", {"image": str(self.image), "loop": self.loop}, {"image", "loop"}
        return "text_to_video", {}, set()


@dataclass(frozen=True)
class JobOptions:
    """Options that only a service honours that is already running."""

    label: LabelOption = ()
    priority: Annotated[int | None, option("N", "Queue priority, 0-9; higher runs first.", "0")] = None
    deadline: Annotated[float | None, option("SECONDS", "Fail the job unless it ends within this time.", "none")] = None
    webhook: Annotated[str | None, option("URL", "URL that receives job events.", "none")] = None
    patience: Annotated[float, option("SECONDS", "How long to wait for room in a full queue or quota.", min=0)] = 0.0
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's name and exit.")] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the request, print its price and its ETA, and make nothing.")
    ] = False

    def given(self) -> list[str]:
        """Return the names of the options that were given."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name)]

    def fields(self) -> dict[str, Any]:
        """Return them as the client takes them.

        Raises:
            CliError: a label or the deadline is malformed.
        """
        fields: dict[str, Any] = {
            "labels": labels_of(self.label),
            "priority": self.priority,
            "webhook": self.webhook,
        }
        if self.deadline is not None:
            if not 0 < self.deadline <= MAX_DEADLINE_SECONDS:
                raise bad_input("deadline", f"{self.deadline:g} must be above 0 and at most {MAX_DEADLINE_SECONDS:g}")
            fields["deadline"] = time.time() + self.deadline
        return fields


@dataclass(frozen=True)
class GenerateRequest:
    """The options of `generate`; None means the model's default."""

    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to show or, with --video, what to change.", show_default=False)
    ] = ""
    out: Annotated[
        Path, option("FILE", "File to make: .mp4, .mkv (lossless) or, for a picture, .png, .webp or .jpg.")
    ] = Path("out.mp4")
    latents_out: Annotated[Path | None, option("FILE", "Save the latents too, as FILE.safetensors.", "not saved")] = (
        None
    )
    model: Annotated[
        str | None,
        option(
            "NAME_OR_DIR",
            "Preset or checkpoint folder; of a service, a name that `zoetrope models` shows.",
            "nano, or the service's first",
        ),
    ] = None
    load: ModelLoadOptions = NONE_GIVEN
    size: Annotated[str | None, option("SIZE", "480p, 720p, 1080p or WIDTHxHEIGHT.", "the model's")] = None
    ratio: Annotated[
        str | None,
        option(
            "RATIO",
            f"Aspect ratio of a named size: {', '.join(RATIOS)}.",
            f"that of the picture or clip, else {RATIOS[0]}",
        ),
    ] = None
    fit: Annotated[
        str | None,
        option("FIT", "How media of another ratio fit the frame: cover (cropped) or contain (with bars).", "cover"),
    ] = None
    duration: Annotated[float | None, option("SECONDS", "Length in seconds.", "the model's")] = None
    frames: Annotated[int | None, option("N", "Length in frames, instead of --duration.", "the model's")] = None
    fps: Annotated[int | None, option("N", "Frames per second.", "the model's")] = None
    steps: Annotated[int | None, option("N", "Denoising steps.", "the model's")] = None
    guidance: Annotated[
        float | None, option("SCALE", "Guidance scale, 0-30; higher follows the prompt more closely.", "the model's")
    ] = None
    guidance_low: Annotated[
        float | None,
        option(
            "SCALE",
            "Guidance scale of the low-noise expert, for models with two.",
            "--guidance if given, else the model's",
        ),
    ] = None
    flow_shift: Annotated[
        float | None,
        option("SHIFT", "Shift of the noise schedule, 0.01-100; `zoetrope models` shows the default.", "the model's"),
    ] = None
    sampler: Annotated[str | None, option("NAME", "Sampler: unipc, euler or dpm++.", "the model's")] = None
    quality: Annotated[
        str | None,
        option("LEVEL", "Steps to compute in full: exact (all), balanced (about half) or fast.", "exact"),
    ] = None
    guidance_start: Annotated[
        float | None, option("SHARE", "Share of the steps, 0-1, from which guidance acts.", "0")
    ] = None
    guidance_end: Annotated[
        float | None,
        option(
            "SHARE", "Share of the steps, 0-1, up to which guidance acts; without it a step takes half as long.", "1"
        ),
    ] = None
    negative: Annotated[str | None, option("TEXT", 'What to avoid; "" for nothing.', "the model's")] = None
    seed: SeedOption = None
    media: TaskMedia = TaskMedia()
    audio: Annotated[Path | None, option("FILE", "Audio track to add.", "none")] = None
    options: JobOptions = JobOptions()

    def __post_init__(self) -> None:
        """Raise CliError if the name of an output file has a wrong suffix."""
        if container_of(self.out) is None:
            raise bad_input("out", f"{str(self.out)!r} does not end in one of {', '.join(SUFFIXES)}")
        if self.latents_out is not None:
            check_latents_name(self.latents_out)

    def request(self) -> dict[str, Any]:
        """Return the fields of a zoetrope.model.request.tasks.VideoRequest, except the model, which a service and a
        local run name differently."""
        fields: dict[str, Any] = {
            **{name: getattr(self, name) for name in SAME_NAMES},
            "duration_seconds": self.duration,
            "audio": None if self.audio is None else str(self.audio),
            "container": container_of(self.out),
            "keep_latents": self.latents_out is not None,
        }
        task = {"prompt": self.prompt, "negative_prompt": self.negative, **self.media.task()}
        return {"task": task, **{name: value for name, value in fields.items() if value is not None}}

    def upload_request(self) -> dict[str, Any]:
        """Return `request` for a service: local files as paths, and names of what it already stores as strings."""
        fields = self.request()

        def source(name: str) -> Path | str:
            return name if name.startswith(STORED) and not Path(name).exists() else Path(name)

        for key in MEDIA_FIELDS:
            value = fields["task"].get(key)
            if isinstance(value, str):
                fields["task"][key] = source(value)
            elif value is not None:
                fields["task"][key] = [source(item) for item in value]
        if "audio" in fields:
            fields["audio"] = source(fields["audio"])
        return fields

    def prepare_files(self) -> None:
        """Check that the output files can be written; see `prepare_file`."""
        prepare_file(self.out, "out")
        if self.latents_out is not None:
            prepare_file(self.latents_out, "latents-out")


def check_latents_name(path: Path) -> None:
    """Raise CliError unless the name ends in .safetensors."""
    if path.suffix.lower() != ".safetensors":
        raise bad_input("latents-out", f"{str(path)!r} does not end in .safetensors")


def prepare_file(path: Path, field: str) -> None:
    """Check that a file can be written. Whoever sits at a terminal is asked whether to make a folder that is missing.

    Raises:
        CliError: the folder is missing, cannot be made or written to, or the path itself is a folder.
    """
    if path.is_dir():
        raise bad_input(field, f"{str(path)!r} is a folder")
    folder = path.parent
    if not folder.exists():
        missing = f"the folder {str(folder)!r} does not exist"
        asked = sys.stdin.isatty() and sys.stderr.isatty()
        if not (asked and typer.confirm(f"{missing}. Make it?", err=True)):
            raise bad_input(field, f"{missing}; make it first")
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise bad_input(field, f"the folder {str(folder)!r} cannot be made: {error.strerror}") from None
    if not folder.is_dir():
        raise bad_input(field, f"the folder {str(folder)!r} is a file")
    if not os.access(folder, os.W_OK):
        raise bad_input(field, f"the folder {str(folder)!r} cannot be written to")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to, which is renamed to ``path`` only if the block succeeds."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise CliError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def result_line(
    request: GenerateRequest,
    *,
    size: tuple[int, int],
    native_size: tuple[int, int],
    frames: int,
    fps: int,
    seed: int,
    steps: int,
    model: str,
) -> str:
    """Return the one line that goes to standard output."""
    words = [
        f"saved {request.out}",
        f"size={size[0]}x{size[1]}",
        f"denoised_at={native_size[0]}x{native_size[1]}",
        f"frames={frames}",
        f"fps={fps}",
        f"steps={steps}",
        f"seed={seed}",
        f"model={model}",
    ]
    if request.latents_out is not None:
        words.append(f"latents={request.latents_out}")
    return " ".join(words)

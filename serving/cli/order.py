"""What `zoetrope generate` was asked for, as far as it can be judged without a model or a server."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.api.formats import SUFFIXES, container_of
from serving.api.names import MEDIA, OPERATIONS
from serving.cli.errors import CliError, bad_input

DEFAULT_MODEL = "nano"  # of a run without a service
MAX_DEADLINE_SECONDS = 365 * 86_400.0
STORED = (MEDIA, OPERATIONS)  # what names of a service begin with
MEDIA_FIELDS = ("image", "clip", "first_frame", "last_frame", "video", "panels", "references")


@dataclass(frozen=True)
class TaskMedia:
    """The files that `generate` was given; which of them there are decides the kind of task."""

    image: Path | None = None
    clip: Path | None = None
    last_image: Path | None = None
    panels: tuple[Path, ...] = ()
    references: tuple[Path, ...] = ()
    video: Path | None = None
    loop: bool = False
    keep_audio: bool = False

    def task(self) -> dict[str, Any]:
        """Kind and media of the task.

        Raises:
            CliError: files of two kinds of task.
        """
        kind, fields, allowed = self._kind()
        given = {f.name for f in dataclasses.fields(self) if getattr(self, f.name)}
        strange = sorted(given - allowed)
        if strange:
            raise bad_input(strange[0].replace("_", "-").removesuffix("s"), f"does not go with a task of kind {kind}")
        return {"kind": kind, **fields}

    def _kind(self) -> tuple[str, dict[str, Any], set[str]]:
        """Kind, fields, and the options that belong to it."""
        references = [str(path) for path in self.references]
        if self.video is not None:
            fields = {"video": str(self.video), "references": references, "keep_audio": self.keep_audio}
            return "edit_video", fields, {"video", "references", "keep_audio"}
        if self.panels:
            return "grid_to_video", {"panels": [str(path) for path in self.panels]}, {"panels"}
        if self.references:
            first = {"first_frame": str(self.image)} if self.image is not None else {}
            return "reference_to_video", {"references": references, **first}, {"references", "image"}
        if self.last_image is not None:
            if self.image is None:
                raise bad_input("last-image", "needs --image, the first frame")
            frames = {"first_frame": str(self.image), "last_frame": str(self.last_image)}
            return "first_last_frame", frames, {"image", "last_image"}
        if self.image is not None:
            return "image_to_video", {"image": str(self.image), "loop": self.loop}, {"image", "loop"}
        if self.clip is not None:
            return "image_to_video", {"clip": str(self.clip)}, {"clip"}
        return "text_to_video", {}, set()


@dataclass(frozen=True)
class JobOptions:
    """What only a service that others use as well can honour."""

    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int | None = None
    deadline_seconds: float | None = None  # from now
    webhook: str | None = None
    patience: float = 0.0
    detach: bool = False

    def given(self) -> list[str]:
        """The options that were given, by their names."""
        names = {"labels": "label", "deadline_seconds": "deadline"}
        return [names.get(f.name, f.name) for f in dataclasses.fields(self) if getattr(self, f.name)]

    def fields(self) -> dict[str, Any]:
        """As the client takes them.

        Raises:
            CliError: no such moment.
        """
        fields: dict[str, Any] = {"labels": dict(self.labels), "priority": self.priority, "webhook": self.webhook}
        if self.deadline_seconds is not None:
            if not 0 < self.deadline_seconds <= MAX_DEADLINE_SECONDS:
                text = f"{self.deadline_seconds:g} is not above 0 and at most {MAX_DEADLINE_SECONDS:g}"
                raise bad_input("deadline", text)
            fields["deadline"] = time.time() + self.deadline_seconds
        return fields


@dataclass(frozen=True)
class Order:
    """The options as typed; None means the model's default."""

    prompt: str
    out: Path
    latents_out: Path | None = None
    model: str | None = None
    family: str | None = None  # that the model's folder holds
    size: str | None = None
    ratio: str | None = None
    fit: str | None = None
    duration: float | None = None
    frames: int | None = None
    fps: int | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_low: float | None = None
    flow_shift: float | None = None
    negative: str | None = None
    seed: int | None = None
    audio: Path | None = None
    media: TaskMedia = TaskMedia()
    options: JobOptions = JobOptions()

    def __post_init__(self) -> None:
        """Raises CliError where a file's name will not do."""
        if container_of(self.out) is None:
            raise bad_input("out", f"{str(self.out)!r} does not end in one of {', '.join(SUFFIXES)}")
        if self.latents_out is not None:
            check_latents_name(self.latents_out)

    def request(self) -> dict[str, Any]:
        """The fields of a model.tasks.VideoRequest, less the model, which a server and a local run name differently."""
        fields: dict[str, Any] = {
            "size": self.size,
            "ratio": self.ratio,
            "fit": self.fit,
            "duration_seconds": self.duration,
            "frames": self.frames,
            "fps": self.fps,
            "steps": self.steps,
            "guidance": self.guidance,
            "guidance_low": self.guidance_low,
            "flow_shift": self.flow_shift,
            "audio": None if self.audio is None else str(self.audio),
            "seed": self.seed,
            "container": container_of(self.out),
            "keep_latents": self.latents_out is not None,
        }
        task = {"prompt": self.prompt, "negative_prompt": self.negative, **self.media.task()}
        return {"task": task, **{name: value for name, value in fields.items() if value is not None}}

    def upload_request(self) -> dict[str, Any]:
        """`request` for a service: local files as paths, and the names of what it has already as texts."""
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
        """Make the folders of the outputs. Raises CliError."""
        prepare_file(self.out, "out")
        if self.latents_out is not None:
            prepare_file(self.latents_out, "latents-out")


def check_latents_name(path: Path) -> None:
    """Raises CliError unless the name says safetensors."""
    if path.suffix.lower() != ".safetensors":
        raise bad_input("latents-out", f"{str(path)!r} does not end in .safetensors")


def prepare_file(path: Path, field: str) -> None:
    """Make the folder of a file to be written.

    Raises:
        CliError: it cannot be made, or the name is a folder's.
    """
    if path.is_dir():
        raise bad_input(field, f"{str(path)!r} is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise bad_input(field, f"the folder {str(path.parent)!r} cannot be made: {error.strerror}") from None
    if not os.access(path.parent, os.W_OK):
        raise bad_input(field, f"the folder {str(path.parent)!r} cannot be written to")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` only when the block succeeds."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise CliError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def result_line(
    order: Order,
    *,
    size: tuple[int, int],
    native_size: tuple[int, int],
    frames: int,
    fps: int,
    seed: int,
    steps: int,
    model: str,
) -> str:
    """The one line that goes to standard output."""
    words = [
        f"saved {order.out}",
        f"size={size[0]}x{size[1]}",
        f"denoised_at={native_size[0]}x{native_size[1]}",
        f"frames={frames}",
        f"fps={fps}",
        f"steps={steps}",
        f"seed={seed}",
        f"model={model}",
    ]
    if order.latents_out is not None:
        words.append(f"latents={order.latents_out}")
    return " ".join(words)

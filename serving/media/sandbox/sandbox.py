"""Decode untrusted files in separate processes with limited memory and time and no access to anything else.

Each file gets its own process, whose only open descriptors are the file and a place for the result. A decoder that a
crafted file takes over can waste its memory and time, and give a wrong answer about its own file. What keeps it from
more, and what must hold for files to be decoded at all, is in `serving.media.sandbox.confine`.
"""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from zoetrope.model.media.inputs import Clip, Picture
from zoetrope.model.media.resize import Frames
from zoetrope.serving.media.errors import MediaError, TookTooLong
from zoetrope.serving.media.formats import check_size, media_type
from zoetrope.serving.media.info import ProbedMedia
from zoetrope.serving.media.pictures import MAX_PICTURE_PIXELS
from zoetrope.serving.media.sandbox.confine import Layer
from zoetrope.serving.media.sandbox.worker_pool import WorkerPool
from zoetrope.serving.media.sandbox.worker_process import MediaWorker
from zoetrope.serving.media.sound import MAX_SOUND_BYTES, SoundInfo
from zoetrope.serving.media.streams import MAX_CLIP_BYTES
from zoetrope.serving.media.wav import check_wav

__all__ = ["Examined", "Layer", "Sandbox", "confinement"]

T = TypeVar("T")

MEMORY_BYTES = 2 << 30  # of address space: the largest allowed picture needs half of it
LEAST_MEMORY_BYTES = 256 << 20  # what the decoders need by themselves
SECONDS = 30.0
LEAST_SECONDS = 0.1
READ_PATIENCE = 4  # times the seconds, for clips: converting a phone's frames to RGB takes longer than decoding them
# One of several workers is reserved for files with at most this many pixels in all frames, which take no longer.
SMALL_PIXELS = 16_000_000
SMALL_SECONDS = 3.0
NAME = "the file"
INVALID_ANSWER = "the decoder gave an invalid answer"
INFO: TypeAdapter[ProbedMedia] = TypeAdapter(ProbedMedia)
SOUND_INFO: TypeAdapter[SoundInfo] = TypeAdapter(SoundInfo)


def confinement(*, unsafe: bool = False) -> list[Layer]:
    """Start a worker and return the layers that confine it on this machine.

    Raises:
        NotConfined: too few layers hold, and not ``unsafe``. OSError: the worker does not start.
    """
    worker = MediaWorker(MEMORY_BYTES, unsafe=unsafe)
    worker.close()
    return worker.layers


@dataclass(frozen=True)
class Examined:
    """Describes a client's file."""

    mime_type: str
    info: dict[str, Any]  # a ProbedMedia as a dict; for a file with only sound, a SoundInfo and "kind": "sound"


class Sandbox:
    """Workers that examine and decode untrusted files.

    Results and errors are those of `serving.media`, with a MediaError also for a file that crashes its decoder or
    exceeds the time or memory limit. Messages call a file ``name``; workers never learn its path. OSError means that
    the service is at fault: no process can be started or confined (`NotConfined`), or the scratch directory is full.
    """

    def __init__(
        self,
        workers: int = 1,
        memory_bytes: int = MEMORY_BYTES,
        seconds: float = SECONDS,
        scratch: Path | None = None,
        *,
        unsafe: bool = False,
    ) -> None:
        """Set the limits; processes start when they are first needed.

        Args:
            workers: files examined at a time; more wait. Of several workers, one is reserved for small files.
            memory_bytes: address space of each worker; `read_clip` gets MAX_CLIP_BYTES more, for the frames.
            seconds: wall time and processor time of one request; `read_clip` gets READ_PATIENCE times as much.
            scratch: an existing directory for decoded pixels; the system's by default.
            unsafe: decode files even if workers cannot be confined.

        Raises:
            ValueError: a limit is too small.
        """
        for limit, value, least in (
            ("workers", workers, 1),
            ("memory_bytes", memory_bytes, LEAST_MEMORY_BYTES),
            ("seconds", seconds, LEAST_SECONDS),
        ):
            if value < least:
                raise ValueError(f"{limit} is {value}, must be at least {least}")
        self._pool = WorkerPool(workers, memory_bytes, memory_bytes + MAX_CLIP_BYTES, seconds, unsafe=unsafe)
        self._scratch = scratch
        self._several = workers > 1

    @property
    def layers(self) -> list[Layer]:
        """Return the layers that confine the workers; empty until one has started."""
        return self._pool.layers

    async def examine(self, path: Path, *, name: str = NAME, tenant: str = "") -> Examined:
        """Decode a client's whole file and describe it (`serving.media.probe_any`); does not block the event loop.

        Tenants take turns. If there are several workers, small files wait only for other small ones.

        Raises:
            MediaError: the file is not a picture, clip or sound within the limits.
        """
        if self._several:
            pixels = await asyncio.wrap_future(
                self._pool.submit(_estimate_pixels, path, name, tenant=tenant, small=True)
            )
            if pixels <= SMALL_PIXELS:
                step = self._pool.submit(_examine, path, name, SMALL_SECONDS, tenant=tenant, small=True)
                with suppress(TookTooLong):
                    return await asyncio.wrap_future(step)
        return await asyncio.wrap_future(self._pool.submit(_examine, path, name, tenant=tenant))

    def read_picture(self, path: Path, *, name: str = NAME) -> Picture:
        """Decode a picture as `serving.media.read_picture` does; blocks."""
        return self._pool.submit(_read_picture, self._scratch, path, name).result()

    def read_clip(
        self,
        path: Path,
        *,
        fps: float | None = None,
        max_seconds: float,
        size: tuple[int, int] | None = None,
        name: str = NAME,
    ) -> Clip:
        """Decode a clip as `serving.media.read_clip` does; blocks. The frames are mapped from an unlinked file, so that
        they need not all be in memory."""
        return self._pool.submit(_read_clip, self._scratch, path, fps, max_seconds, size, name).result()

    def write_sound(self, path: Path, to: Path, max_seconds: float, *, name: str = NAME) -> float:
        """Copy sound as `serving.media.write_sound` does; blocks. The WAV file is safe to decode anywhere."""
        return self._pool.submit(_write_sound, path, to, max_seconds, name).result()

    def close(self) -> None:
        """End the workers; requests in progress fail."""
        self._pool.close()


# Run on the pool's threads:


def _estimate_pixels(pool: WorkerPool, path: Path, name: str) -> float:
    """Estimate the pixels to decode; infinity if unknown."""
    try:
        pixels = pool.ask("estimate_pixels", path, name, most_seconds=SMALL_SECONDS).get("pixels")
    except TookTooLong:
        return math.inf
    return pixels if isinstance(pixels, int) else math.inf


def _examine(pool: WorkerPool, path: Path, name: str, most_seconds: float = math.inf) -> Examined:
    try:
        check_size(path.stat().st_size)
    except OSError as error:
        raise MediaError(f"cannot read {name}: {error.strerror}") from None
    except MediaError as error:
        raise MediaError(f"{name} {error}") from None
    answer = pool.ask("probe_any", path, name, most_seconds=most_seconds)
    if "sound" in answer:
        found: ProbedMedia | SoundInfo = _checked(SOUND_INFO, answer["sound"])
        kind = "sound"
    else:
        found = info = _checked(INFO, answer)
        kind = info.kind
    try:
        mime_type = media_type(found.container, kind)
    except KeyError:
        raise MediaError(INVALID_ANSWER) from None
    return Examined(mime_type, {"kind": kind, **asdict(found)})


def _read_picture(pool: WorkerPool, scratch: Path | None, path: Path, name: str) -> Picture:
    with tempfile.TemporaryFile(dir=scratch) as to:
        answer = pool.ask("read_picture", path, name, to=to.fileno(), file_bytes=MAX_PICTURE_PIXELS * 3)
        return Picture(np.array(_mapped(to, answer.get("shape"), 3)))


def _read_clip(
    pool: WorkerPool,
    scratch: Path | None,
    path: Path,
    fps: float | None,
    max_seconds: float,
    size: tuple[int, int] | None,
    name: str,
) -> Clip:
    with tempfile.TemporaryFile(dir=scratch) as to:
        answer = pool.ask(
            "read_clip",
            path,
            name,
            to=to.fileno(),
            file_bytes=MAX_CLIP_BYTES,
            more_memory=MAX_CLIP_BYTES,
            patience=READ_PATIENCE,
            fps=fps,
            max_seconds=max_seconds,
            size=size,
        )
        rate = answer.get("fps")
        if not isinstance(rate, float) or not 0 < rate < math.inf:
            raise MediaError(INVALID_ANSWER)
        return Clip(_mapped(to, answer.get("shape"), 4), rate)


def _write_sound(pool: WorkerPool, path: Path, to: Path, max_seconds: float, name: str) -> float:
    descriptor, part = tempfile.mkstemp(dir=to.parent, prefix=f".{to.name}-")
    try:
        answer = pool.ask("write_sound", path, name, to=descriptor, file_bytes=MAX_SOUND_BYTES, max_seconds=max_seconds)
        seconds = check_wav(Path(part))
        if answer.get("seconds") != seconds:
            raise MediaError(INVALID_ANSWER)
        os.replace(part, to)
    finally:
        os.close(descriptor)
        Path(part).unlink(missing_ok=True)
    return seconds


def _mapped(file: IO[bytes], shape: Any, dimensions: int) -> Frames:
    """Map the file as an array; writing to it does not change the file."""
    sides = tuple(shape) if isinstance(shape, list) else ()
    if len(sides) != dimensions or not all(isinstance(side, int) and side > 0 for side in sides):
        raise MediaError(INVALID_ANSWER)
    if os.fstat(file.fileno()).st_size != math.prod(sides):
        raise MediaError(INVALID_ANSWER)
    return np.memmap(file, np.uint8, mode="c", shape=sides)


def _checked(adapter: TypeAdapter[T], answer: dict[str, Any]) -> T:
    """Validate a worker's answer: a compromised worker may send anything."""
    try:
        return adapter.validate_python(answer)
    except ValidationError:
        raise MediaError(INVALID_ANSWER) from None

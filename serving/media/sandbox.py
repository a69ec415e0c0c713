"""Files from outside are decoded here: in processes of their own, with little memory, little time and no reach.

Each file has a process of its own, which holds the file and a place for the result as open descriptors, and nothing
else. A decoder that is led astray by a crafted file can use up its memory and time and give a wrong answer about its
own file. What keeps it from more, and what has to hold for files to be decoded at all: `serving.media.confine`.
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

from model.fit import Frames
from model.inputs import Clip, Picture
from serving.media.confine import Layer
from serving.media.errors import MediaError, TookTooLong
from serving.media.formats import check_size, media_type
from serving.media.info import MediaInfo
from serving.media.pictures import MAX_PICTURE_PIXELS
from serving.media.sound import MAX_SOUND_BYTES, SoundInfo
from serving.media.streams import MAX_CLIP_BYTES
from serving.media.wav import check_wav
from serving.media.worker_pool import WorkerPool
from serving.media.worker_process import Worker

__all__ = ["Examined", "Layer", "Sandbox", "confinement"]

T = TypeVar("T")

MEMORY_BYTES = 2 << 30  # of address space: the largest picture that is allowed takes half of it
LEAST_MEMORY_BYTES = 256 << 20  # the decoders alone
SECONDS = 30.0
LEAST_SECONDS = 0.1
READ_PATIENCE = 4  # times the seconds, for all frames of a clip as RGB: a phone's take longer to convert than to decode
# What one of several workers is kept for: files of so few pixels, all frames together, that take no longer than that.
SMALL_PIXELS = 16_000_000
SMALL_SECONDS = 3.0
NAME = "the file"
NONSENSE = "the decoder gave an answer that makes no sense"
INFO: TypeAdapter[MediaInfo] = TypeAdapter(MediaInfo)
SOUND_INFO: TypeAdapter[SoundInfo] = TypeAdapter(SoundInfo)


def confinement(*, unsafe: bool = False) -> list[Layer]:
    """Start a worker to see what confines it on this machine.

    Raises:
        NotConfined: not enough, unless ``unsafe``. OSError: it does not start.
    """
    worker = Worker(MEMORY_BYTES, unsafe=unsafe)
    worker.close()
    return worker.layers


@dataclass(frozen=True)
class Examined:
    """What a client's file is."""

    mime_type: str
    info: dict[str, Any]  # a MediaInfo as a dict; of a file with sound alone a SoundInfo, and "kind": "sound"


class Blocking:
    """The methods of `Sandbox` for threads: each call waits for its result."""

    def __init__(self, pool: WorkerPool, scratch: Path | None) -> None:
        self._pool = pool
        self._scratch = scratch

    def probe(self, path: Path, *, name: str = NAME) -> MediaInfo:
        return self._pool.submit(_probe, path, name).result()

    def probe_sound(self, path: Path, max_seconds: float, *, name: str = NAME) -> SoundInfo:
        return self._pool.submit(_probe_sound, path, max_seconds, name).result()

    def examine(self, path: Path, *, name: str = NAME) -> Examined:
        return self._pool.submit(_examine, path, name).result()

    def read_picture(self, path: Path, *, name: str = NAME) -> Picture:
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
        return self._pool.submit(_read_clip, self._scratch, path, fps, max_seconds, size, name).result()

    def write_sound(self, path: Path, to: Path, max_seconds: float, *, name: str = NAME) -> float:
        return self._pool.submit(_write_sound, path, to, max_seconds, name).result()


class Sandbox:
    """Workers that examine and decode files. Results and errors are as in `serving.media`; there is a MediaError also
    where a file crashes its decoder, takes longer than ``seconds`` or more than ``memory_bytes``. Messages call a file
    ``name``; workers never learn its path. OSError means that the fault is ours: no process can be started or confined
    (`NotConfined`), or the scratch directory is full. `blocking` has the same methods for threads.
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
        """Processes start when they are first needed.

        Args:
            workers: files that are looked at at the same time; more wait. Of several, one is kept for small files.
            memory_bytes: of address space each; `read_clip` gets MAX_CLIP_BYTES more, for the frames.
            seconds: for one request, of wall time and of processor time; `read_clip` gets READ_PATIENCE times as many.
            scratch: an existing directory for pixels on their way; default: the system's.
            unsafe: decode files even where workers cannot be confined.

        Raises:
            ValueError: a limit that nothing fits into.
        """
        for limit, value, least in (
            ("workers", workers, 1),
            ("memory_bytes", memory_bytes, LEAST_MEMORY_BYTES),
            ("seconds", seconds, LEAST_SECONDS),
        ):
            if value < least:
                raise ValueError(f"{limit} {value} is less than {least}")
        self._pool = WorkerPool(workers, memory_bytes, memory_bytes + MAX_CLIP_BYTES, seconds, unsafe=unsafe)
        self._scratch = scratch
        self._several = workers > 1
        self.blocking = Blocking(self._pool, scratch)

    @property
    def layers(self) -> list[Layer]:
        """What confines the workers; known once one has started."""
        return self._pool.layers

    async def probe(self, path: Path, *, name: str = NAME) -> MediaInfo:
        """`serving.media.probe`."""
        return await asyncio.wrap_future(self._pool.submit(_probe, path, name))

    async def probe_sound(self, path: Path, max_seconds: float, *, name: str = NAME) -> SoundInfo:
        """`serving.media.probe_sound`."""
        return await asyncio.wrap_future(self._pool.submit(_probe_sound, path, max_seconds, name))

    async def examine(self, path: Path, *, name: str = NAME, tenant: str = "") -> Examined:
        """Whether a client may send this file: its size, that all of it decodes, and that it is a picture, a clip or a
        sound within the limits (`serving.media.probe_any`). Tenants take turns; small files wait for small ones alone,
        where there are several workers.

        Raises:
            MediaError: it may not.
        """
        if self._several:
            pixels = await asyncio.wrap_future(self._pool.submit(_weigh, path, name, tenant=tenant, small=True))
            if pixels <= SMALL_PIXELS:
                step = self._pool.submit(_examine, path, name, SMALL_SECONDS, tenant=tenant, small=True)
                with suppress(TookTooLong):
                    return await asyncio.wrap_future(step)
        return await asyncio.wrap_future(self._pool.submit(_examine, path, name, tenant=tenant))

    async def read_picture(self, path: Path, *, name: str = NAME) -> Picture:
        """`serving.media.read_picture`."""
        return await asyncio.wrap_future(self._pool.submit(_read_picture, self._scratch, path, name))

    async def read_clip(
        self,
        path: Path,
        *,
        fps: float | None = None,
        max_seconds: float,
        size: tuple[int, int] | None = None,
        name: str = NAME,
    ) -> Clip:
        """`serving.media.read_clip`. The frames lie in a file that has no name any more, so that they need not all be
        in memory."""
        step = self._pool.submit(_read_clip, self._scratch, path, fps, max_seconds, size, name)
        return await asyncio.wrap_future(step)

    async def write_sound(self, path: Path, to: Path, max_seconds: float, *, name: str = NAME) -> float:
        """`serving.media.write_sound`: a plain WAV file, which is safe to decode anywhere."""
        return await asyncio.wrap_future(self._pool.submit(_write_sound, path, to, max_seconds, name))

    def close(self) -> None:
        """End the workers; requests in progress fail."""
        self._pool.close()


# On the pool's threads:


def _probe(pool: WorkerPool, path: Path, name: str) -> MediaInfo:
    return _checked(INFO, pool.ask("probe", path, name))


def _probe_sound(pool: WorkerPool, path: Path, max_seconds: float, name: str) -> SoundInfo:
    return _checked(SOUND_INFO, pool.ask("probe_sound", path, name, max_seconds=max_seconds))


def _weigh(pool: WorkerPool, path: Path, name: str) -> float:
    try:
        pixels = pool.ask("weigh", path, name, most_seconds=SMALL_SECONDS).get("pixels")
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
        found: MediaInfo | SoundInfo = _checked(SOUND_INFO, answer["sound"])
        kind = "sound"
    else:
        found = info = _checked(INFO, answer)
        kind = info.kind
    try:
        mime_type = media_type(found.container, kind)
    except KeyError:
        raise MediaError(NONSENSE) from None
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
            raise MediaError(NONSENSE)
        return Clip(_mapped(to, answer.get("shape"), 4), rate)


def _write_sound(pool: WorkerPool, path: Path, to: Path, max_seconds: float, name: str) -> float:
    descriptor, part = tempfile.mkstemp(dir=to.parent, prefix=f".{to.name}-")
    try:
        answer = pool.ask("write_sound", path, name, to=descriptor, file_bytes=MAX_SOUND_BYTES, max_seconds=max_seconds)
        seconds = check_wav(Path(part))
        if answer.get("seconds") != seconds:
            raise MediaError(NONSENSE)
        os.replace(part, to)
    finally:
        os.close(descriptor)
        Path(part).unlink(missing_ok=True)
    return seconds


def _mapped(file: IO[bytes], shape: Any, dimensions: int) -> Frames:
    """The file as an array that can be written to without changing the file."""
    sides = tuple(shape) if isinstance(shape, list) else ()
    if len(sides) != dimensions or not all(isinstance(side, int) and side > 0 for side in sides):
        raise MediaError(NONSENSE)
    if os.fstat(file.fileno()).st_size != math.prod(sides):
        raise MediaError(NONSENSE)
    return np.memmap(file, np.uint8, mode="c", shape=sides)


def _checked(adapter: TypeAdapter[T], answer: dict[str, Any]) -> T:
    """A worker that was taken over may say anything."""
    try:
        return adapter.validate_python(answer)
    except ValidationError:
        raise MediaError(NONSENSE) from None

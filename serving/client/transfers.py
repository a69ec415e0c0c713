"""Uploads and downloads: in pieces, resumed where an earlier try stopped, with their checksum verified."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import io
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from io import BufferedRandom
from pathlib import Path
from typing import BinaryIO

from zoetrope.model.request.tasks import Violation
from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, video_pb2
from zoetrope.serving.client.requests import Draft
from zoetrope.serving.client.rpc import CREATE_MEDIA, DOWNLOAD_VIDEO, GET_UPLOAD, WRITE_MEDIA, Calls
from zoetrope.serving.client.types import ClientError, invalid

PIECE_BYTES = 512 << 10
MAX_FILENAME_CHARS = 255
ARTIFACTS = {"video": video_pb2.VIDEO_ARTIFACT_VIDEO, "latents": video_pb2.VIDEO_ARTIFACT_LATENTS}
Progress = Callable[[int, int], object]  # bytes transferred, bytes in all
UploadProgress = Callable[[str, int, int], object]  # field, bytes sent, bytes in all


async def upload(
    calls: Calls,
    source: Path | bytes,
    *,
    field: str = "source",
    filename: str = "",
    on_progress: Progress | None = None,
    resume: str = "",
) -> media_pb2.MediaFile:
    """Announce a file and send it, from where the service has it.

    Args:
        field: what errors name.
        resume: the name of an upload that was interrupted; "" announces a new one.

    Raises:
        ClientError: also INVALID_ARGUMENT, the file cannot be read or is not the one that was announced.
    """
    try:
        file = await asyncio.to_thread(source.open, "rb", 0) if isinstance(source, Path) else io.BytesIO(source)
    except OSError as error:
        raise invalid(Violation(field, f"{str(source)!r} cannot be read: {error.strerror}")) from None
    try:
        with file:
            sha256 = (await asyncio.to_thread(hashlib.file_digest, file, "sha256")).hexdigest()
            size = file.seek(0, os.SEEK_END)
            if resume:
                media = await calls.unary(GET_UPLOAD, media_pb2.GetMediaRequest(name=resume))
                if (media.size_bytes, media.sha256) != (size, sha256):
                    raise invalid(Violation("resume", f"{resume} was announced for another file"))
            else:
                shown = (filename or (source.name if isinstance(source, Path) else ""))[-MAX_FILENAME_CHARS:]
                shown = shown.encode(errors="replace").decode()
                request = media_pb2.CreateMediaRequest(size_bytes=size, sha256=sha256, filename=shown)
                media = await calls.unary(CREATE_MEDIA, request)
            return await _send(calls, file, size, media, on_progress)
    except ClientError as error:
        renamed = tuple(Violation(field, v.description) if v.field == "data" else v for v in error.violations)
        if renamed == error.violations:
            raise
        raise invalid(*renamed) from None


async def upload_all(calls: Calls, drafts: Sequence[tuple[str, Draft]], on_progress: UploadProgress | None) -> None:
    """Upload the files of requests, each once however often it is named, and put their names into the messages.

    Args:
        drafts: each with the prefix of its fields in errors.
    """
    uploads = [(prefix + item.field, item) for prefix, draft in drafts for item in draft.uploads]
    missing = [
        Violation(field, f"{str(item.source)!r} is not a readable file")
        for field, item in uploads
        if isinstance(item.source, Path) and not item.source.is_file()
    ]
    if missing:
        raise invalid(*missing)
    names: dict[Path | bytes, str] = {}
    for field, item in uploads:
        if item.source not in names:
            report = None if on_progress is None else partial(on_progress, field)
            names[item.source] = (await upload(calls, item.source, field=field, on_progress=report)).name
        item.media.name = names[item.source]


async def _send(
    calls: Calls, file: BinaryIO, size: int, media: media_pb2.MediaFile, on_progress: Progress | None
) -> media_pb2.MediaFile:
    """Send what the service does not have yet; try again from there as long as tries make progress."""
    backoff = calls.backoff(WRITE_MEDIA)
    while media.state != media_pb2.MEDIA_STATE_READY:
        name, offset = media.name, media.received_bytes
        try:
            media = await calls.send(WRITE_MEDIA, _pieces(file, size, name, offset, on_progress))
        except ClientError as error:
            if error.code != "OUT_OF_RANGE":
                await asyncio.sleep(backoff.pause(error))
            media = await calls.unary(GET_UPLOAD, media_pb2.GetMediaRequest(name=name))
            if media.received_bytes == offset and error.code == "OUT_OF_RANGE":
                raise
            if media.received_bytes > offset:
                backoff.reset()
            continue
        if media.state != media_pb2.MEDIA_STATE_READY:
            raise ClientError("DATA_LOSS", f"{name}: the file ended early, at {media.received_bytes} bytes")
    return media


async def _pieces(
    file: BinaryIO, size: int, name: str, offset: int, on_progress: Progress | None
) -> AsyncGenerator[media_pb2.WriteMediaRequest, None]:
    def read() -> bytes:
        file.seek(offset)
        return file.read(PIECE_BYTES)

    while offset < size and (data := await asyncio.to_thread(read)):  # nothing: the file was cut meanwhile
        yield media_pb2.WriteMediaRequest(name=name, offset=offset, data=data)
        offset += len(data)
        if on_progress is not None:
            await asyncio.to_thread(on_progress, offset, size)


async def chunks(
    calls: Calls, name: str, artifact: str, offset: int = 0, length: int = 0
) -> AsyncGenerator[video_pb2.DownloadVideoResponse, None]:
    """Yield the pieces of a job's file from ``offset`` on, ``length`` bytes or (0) all that follow.

    Raises:
        ClientError: also INVALID_ARGUMENT, values that no message can hold.
    """
    if artifact not in ARTIFACTS:
        raise ClientError("INVALID_ARGUMENT", f"artifact: {artifact!r} is not one of {', '.join(ARTIFACTS)}")
    end = offset + length if length > 0 else None
    total: int | None = None

    def request() -> video_pb2.DownloadVideoRequest:
        left = length if end is None else end - offset
        try:
            return video_pb2.DownloadVideoRequest(name=name, artifact=ARTIFACTS[artifact], offset=offset, length=left)
        except ValueError:
            raise ClientError("INVALID_ARGUMENT", f"offset, length: {offset}, {left} are not possible values") from None

    def complete() -> bool:
        return offset == total or (end is not None and offset >= end)

    async with aclosing(calls.stream(DOWNLOAD_VIDEO, request, complete)) as answers:
        async for chunk in answers:
            offset += len(chunk.data)
            total = chunk.total_bytes
            yield chunk
            if end is not None and offset >= end:
                return


async def download(calls: Calls, name: str, path: Path, artifact: str, on_progress: Progress | None) -> None:
    """Fetch a file into a hidden one beside ``path``, which takes that name once it is whole and right.

    Raises:
        ClientError: also ABORTED, another download of it to the same place is under way.
    """
    unfinished = path.with_name(f".{path.name}.{name.rpartition('/')[2]}.partial")
    with _alone(unfinished) as file:
        resumed = _size(file) > 0
        try:
            while not await _fetch(calls, name, file, artifact, on_progress):
                file.truncate(0)
                if not resumed:
                    raise ClientError("DATA_LOSS", f"{name}: the {artifact} arrived with a wrong SHA-256")
                resumed = False
            os.replace(unfinished, path)
        finally:
            if _size(file) == 0:  # refused at once: nothing to resume from
                unfinished.unlink(missing_ok=True)


async def _fetch(calls: Calls, name: str, file: BufferedRandom, artifact: str, on_progress: Progress | None) -> bool:
    """Append to ``file`` until it has all bytes; False if they are the wrong ones."""
    sha256 = ""

    def append(chunk: video_pb2.DownloadVideoResponse) -> None:
        file.write(chunk.data)
        digest.update(chunk.data)
        if on_progress is not None:
            on_progress(file.tell(), chunk.total_bytes)

    def sync() -> None:
        file.flush()
        os.fsync(file.fileno())

    file.seek(0)
    digest = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
    try:
        async with aclosing(chunks(calls, name, artifact, file.tell())) as answers:
            async for chunk in answers:
                await asyncio.to_thread(append, chunk)
                sha256 = chunk.sha256
    except ClientError as error:
        if error.code == "OUT_OF_RANGE":  # what was there is longer than the file
            return False
        raise
    await asyncio.to_thread(sync)
    return digest.hexdigest() == sha256


@contextmanager
def _alone(path: Path) -> Iterator[BufferedRandom]:
    """Open a file to append to, which nobody else opens so meanwhile, in this process or another."""
    while True:
        with path.open("ab+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ClientError("ABORTED", f"another download writes {str(path)!r} at the moment") from None
            if _is_at(file, path):  # else another one finished it in between
                yield file
                return


def _is_at(file: BufferedRandom, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _size(file: BufferedRandom) -> int:
    file.flush()
    return os.fstat(file.fileno()).st_size

"""How files go up and down: in pieces, from where an earlier try stopped, with their checksum."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from model.tasks import Violation
from serving.api.zoetrope.video.v1 import media_pb2, video_pb2
from serving.client.answers import media_file
from serving.client.steps import Emit, Flow, Next, Off, Open, Patience, Send, Sleep, call
from serving.client.types import ClientError, MediaFile, invalid

PIECE_BYTES = 512 << 10
BLOCK_BYTES = 1 << 20
MAX_FILENAME_CHARS = 255
ARTIFACTS = {"video": video_pb2.VIDEO_ARTIFACT_VIDEO, "latents": video_pb2.VIDEO_ARTIFACT_LATENTS}
Progress = Callable[[int, int], object]  # bytes that are there, bytes in all


def no_progress(have: int, total: int) -> None:
    """For who wants to know nothing."""


class Content:
    """What is uploaded. Reading names the place, so that a try that was given up does no harm to the next one."""

    def __init__(self, source: Path | str | bytes) -> None:
        """
        Raises:
            OSError: the file cannot be read.
        """
        source = Path(source) if isinstance(source, str) else source
        self._file = source.open("rb") if isinstance(source, Path) else None
        self._data = source if isinstance(source, bytes) else b""
        self.size = len(self._data) if self._file is None else os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, count: int) -> bytes:
        if self._file is None:
            return self._data[offset : offset + count]
        return os.pread(self._file.fileno(), count, offset)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for offset in range(0, self.size, BLOCK_BYTES):
            digest.update(self.read(offset, BLOCK_BYTES))
        return digest.hexdigest()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def upload(
    source: Path | bytes, field: str, filename: str, on_progress: Progress, resume: str, patience: Patience
) -> Flow[MediaFile]:
    """Announce a file and send it, from where the service has it.

    Args:
        field: what errors name. resume: an upload that was broken off; "" announces a new one.
    """
    try:
        content = yield Off(partial(Content, source))
    except OSError as error:
        raise invalid(Violation(field, f"{str(source)!r} cannot be read: {error.strerror}")) from None
    try:
        sha256 = yield Off(content.sha256)
        if resume:
            media = yield from call("MediaService.GetMedia", media_pb2.GetMediaRequest(name=resume), patience)
            if (media.size_bytes, media.sha256) != (content.size, sha256):
                raise invalid(Violation("resume", f"{resume} was announced for another file"))
        else:
            shown = (filename or (source.name if isinstance(source, Path) else ""))[-MAX_FILENAME_CHARS:]
            shown = shown.encode(errors="replace").decode()
            request = media_pb2.CreateMediaRequest(size_bytes=content.size, sha256=sha256, filename=shown)
            media = yield from call("MediaService.CreateMedia", request, patience)
        while media.state != media_pb2.MEDIA_STATE_READY:
            media = yield from _send_rest(content, media, on_progress, patience)
        return media_file(media)
    except ClientError as error:
        renamed = tuple(Violation(field, v.description) if v.field == "data" else v for v in error.violations)
        if renamed == error.violations:
            raise
        raise invalid(*renamed) from None
    finally:
        content.close()


def _send_rest(content: Content, media: Any, on_progress: Progress, patience: Patience) -> Flow[Any]:
    """One try; what is known of the upload after it."""
    offset = media.received_bytes
    name = media.name
    try:
        media = yield Send("MediaService.UploadMedia", lambda: _pieces(content, name, offset, on_progress))
    except ClientError as error:
        if error.code != "OUT_OF_RANGE":
            yield Sleep(patience.pause(error))
        media = yield from call("MediaService.GetMedia", media_pb2.GetMediaRequest(name=name), patience)
        if media.received_bytes == offset and error.code == "OUT_OF_RANGE":
            raise
        if media.received_bytes > offset:
            patience.succeeded()
        return media
    if media.state != media_pb2.MEDIA_STATE_READY:
        raise ClientError("DATA_LOSS", f"{name}: the file ended early, at {media.received_bytes} bytes")
    return media


def _pieces(
    content: Content, name: str, offset: int, on_progress: Progress
) -> Iterator[media_pb2.UploadMediaRequest]:
    while offset < content.size:
        data = content.read(offset, PIECE_BYTES)
        if not data:  # it was cut meanwhile; the service says so
            return
        yield media_pb2.UploadMediaRequest(name=name, offset=offset, data=data)
        offset += len(data)
        on_progress(offset, content.size)


def read(name: str, artifact: str, offset: int, length: int, patience: Patience) -> Flow[None]:
    """Emit the bytes of a range; ``length`` 0: to the end."""
    wanted = _artifact(artifact)
    left = length
    while True:
        yield Open("VideoService.DownloadVideo", _request(name, wanted, offset, left))
        error = ClientError("UNAVAILABLE", f"{name}: the stream ended before the file did")
        total: int | None = None
        try:
            while (chunk := (yield Next())) is not None:
                patience.succeeded()
                total = chunk.total_bytes
                offset += len(chunk.data)
                if length:
                    left -= len(chunk.data)
                if chunk.data:
                    yield Emit(chunk.data)
                if length and left <= 0:
                    return
        except ClientError as caught:
            error = caught
        if offset == total:
            return
        yield Sleep(patience.pause(error))


def download(name: str, path: Path, artifact: str, on_progress: Progress, patience: Patience) -> Flow[None]:
    """Fetch a file into a hidden one beside ``path``, which takes that name when it is whole and right."""
    wanted = _artifact(artifact)
    partial_path = path.with_name(f".{path.name}.{name.rpartition('/')[2]}.partial")
    left_over = partial_path.exists()
    try:
        while not (yield from _fetch(name, partial_path, wanted, on_progress, patience)):
            partial_path.unlink()
            if not left_over:
                raise ClientError("DATA_LOSS", f"{name}: the {artifact} arrived with a wrong SHA-256")
            left_over = False
        os.replace(partial_path, path)
    finally:
        if partial_path.exists() and partial_path.stat().st_size == 0:  # refused at once: nothing to go on with
            partial_path.unlink()


def _fetch(
    name: str, path: Path, artifact: video_pb2.VideoArtifact, on_progress: Progress, patience: Patience
) -> Flow[bool]:
    """Append to ``path`` until it has all bytes; False when they are the wrong ones."""
    digest = hashlib.sha256()
    with path.open("ab+") as file:
        offset = yield Off(partial(_hash_file, file, digest))
        while True:
            yield Open("VideoService.DownloadVideo", _request(name, artifact, offset, 0))
            total: int | None = None
            sha256 = ""
            error = ClientError("UNAVAILABLE", f"{name}: the stream ended before the file did")
            try:
                while (chunk := (yield Next())) is not None:
                    patience.succeeded()
                    yield Off(partial(_append, file, digest, chunk.data))
                    offset += len(chunk.data)
                    total, sha256 = chunk.total_bytes, chunk.sha256
                    on_progress(offset, total)
            except ClientError as caught:
                error = caught
                if error.code == "OUT_OF_RANGE":
                    return False
            if offset == total:
                yield Off(partial(_sync, file))
                return digest.hexdigest() == sha256
            yield Sleep(patience.pause(error))


def _artifact(name: str) -> video_pb2.VideoArtifact:
    if name not in ARTIFACTS:
        raise ClientError("INVALID_ARGUMENT", f"artifact: {name!r} is not one of {', '.join(ARTIFACTS)}")
    return ARTIFACTS[name]


def _request(
    name: str, artifact: video_pb2.VideoArtifact, offset: int, length: int
) -> video_pb2.DownloadVideoRequest:
    try:
        return video_pb2.DownloadVideoRequest(name=name, artifact=artifact, offset=offset, length=length)
    except ValueError:
        raise ClientError("INVALID_ARGUMENT", f"offset, length: {offset}, {length} are no possible values") from None


def _hash_file(file: Any, digest: Any) -> int:
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return int(file.tell())


def _append(file: Any, digest: Any, data: bytes) -> None:
    file.write(data)
    digest.update(data)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())

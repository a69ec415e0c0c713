"""Finished files and media by key, in a local directory or an S3-compatible bucket.

Keys of results are ``jobs/{job_id}/{lease_epoch}/{file name}``. The epoch keeps a holder that lost its lease from
touching the files of its successor.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from obstore.exceptions import AlreadyExistsError, BaseError

from serving.artifacts_local import LocalFiles
from serving.artifacts_s3 import S3Files
from serving.jobs.job import Artifact

READ_BYTES = 1 << 20
COPY_BYTES = 8 << 20  # fewer requests to a bucket
KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,127}")  # needs no quoting in a header


class ArtifactError(Exception):
    """The store cannot be read or written, or the key is malformed; one line."""


class ArtifactMissing(ArtifactError):
    """There is no such key (any more)."""


class ArtifactExists(ArtifactError):
    """The key is taken by other bytes."""


class ArtifactUnavailable(ArtifactError):
    """The disk is full, or the store is away; may pass."""


class Files(Protocol):
    """Where the bytes lie. FileNotFoundError: no such key; FileExistsError: it is taken; others: OSError, BaseError."""

    def add(self, key: str, chunks: Iterable[bytes], mime_type: str, filename: str | None) -> None: ...
    def size(self, key: str) -> int: ...
    def read(self, key: str, start: int, end: int) -> bytes: ...
    def delete(self, key: str) -> None: ...
    def below(self, folder: str) -> list[str]: ...
    def path(self, key: str) -> Path | None: ...
    def sign(self, key: str, seconds: float) -> str | None: ...
    def check(self) -> None: ...
    def discard_parts(self) -> None: ...


def open_artifacts(url: str, default: Path | None = None) -> ArtifactStore:
    """A store by address: ``s3://bucket/prefix?endpoint=...&region=...`` (see `serving.artifacts_s3`),
    ``file:///absolute/path`` or a plain path; "" is the default.

    Raises:
        ArtifactError: the address is none of these, or the directory cannot be created.
    """
    if not url:
        if default is None:
            raise ArtifactError("no address for artifacts, and no default directory")
        return ArtifactStore(default)
    scheme, separator, _ = url.partition("://")
    if not separator:
        return ArtifactStore(Path(url).expanduser())
    if scheme == "s3":
        try:
            return ArtifactStore(S3Files(url))
        except (BaseError, ValueError) as error:
            raise ArtifactError(f"cannot open the artifact store: {_first_line(error)}") from error
    parts = urlsplit(url)
    if scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/") and not parts.query:
        return ArtifactStore(Path(unquote(parts.path)))
    raise ArtifactError(f"cannot keep artifacts at {scheme}://...; s3://bucket/prefix, file:///path or a path will do")


class ArtifactStore:
    """Files by key. A key is written once, appears whole or not at all, and never changes until it is deleted.

    Safe to use from several threads and processes. What is reported as stored survives the death of any process; of a
    directory also the loss of power. How strict "written once" is with a bucket: `serving.artifacts_s3.S3Files`.
    """

    def __init__(self, root: Path | Files) -> None:
        """Open or create a directory, or wrap another kind of store (`open_artifacts`).

        Raises:
            ArtifactError: the directory cannot be created.
        """
        try:
            self._files: Files = LocalFiles(root) if isinstance(root, Path) else root
        except OSError as error:
            raise ArtifactError(f"cannot open the artifact directory {root}: {_first_line(error)}") from error

    def put_file(self, key: str, path: Path, mime_type: str, filename: str | None = None) -> Artifact:
        """Store a copy of a file under a new key. Repeating a call with the same bytes changes nothing and succeeds.

        Args:
            filename: what a browser saves it as when it comes by a signed URL; default: the end of the key.

        Raises:
            ArtifactExists: the key holds other bytes.
            ArtifactUnavailable: the copy cannot be written.
            ArtifactError: the file cannot be read.
        """
        with _opened(path) as file:
            return self._put(key, iter(lambda: file.read(READ_BYTES), b""), mime_type, filename)

    def put_bytes(self, key: str, data: bytes, mime_type: str, filename: str | None = None) -> Artifact:
        """`put_file` for what is in memory."""
        return self._put(key, iter((data,)), mime_type, filename)

    def compose(self, key: str, part_keys: Sequence[str], mime_type: str, filename: str | None = None) -> Artifact:
        """Store what the parts hold, one after the other, under a new key; the parts stay.

        Raises:
            ArtifactMissing: a part is not there.
            Others as `put_file`.
        """
        for part in part_keys:
            self.size(part)

        def chunks() -> Iterator[bytes]:
            for part in part_keys:
                yield from self.read(part)

        return self._put(key, chunks(), mime_type, filename)

    def read(self, key: str, offset: int = 0, chunk_bytes: int = READ_BYTES) -> Iterator[bytes]:
        """Bytes from ``offset`` to the end, in chunks of ``chunk_bytes`` (the last one may be shorter).

        Raises:
            ArtifactMissing: at once when there is no such key, or in between when it is deleted meanwhile.
            ArtifactUnavailable: the store cannot be reached.
            ValueError: at once when the offset is negative or past the end (the end itself gives no chunks), or the
                chunk size not positive.
        """
        size = self.size(key)
        if not 0 <= offset <= size:
            raise ValueError(f"offset {offset} is not within 0 to {size}, the size of {key}")
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes {chunk_bytes} is not positive")
        return self._chunks(key, offset, size, chunk_bytes)

    def size(self, key: str) -> int:
        """Bytes. Raises ArtifactMissing where there is no such key."""
        with _named_errors(key):
            return self._files.size(key)

    def exists(self, key: str) -> bool:
        """Whether the key is stored."""
        try:
            self.size(key)
        except ArtifactMissing:
            return False
        return True

    def copy_to(self, key: str, path: Path) -> None:
        """Write a file's bytes to a local path, which must not exist; after an error there is none.

        Raises:
            ArtifactMissing: no such key. ArtifactUnavailable: the store cannot be read. OSError: the path cannot be
                written.
        """
        chunks = self.read(key, 0, COPY_BYTES)
        with path.open("xb") as file:
            try:
                for chunk in chunks:
                    file.write(chunk)
            except BaseException:
                path.unlink()
                raise

    def below(self, folder: str) -> list[str]:
        """All keys below ``folder/``; none where there is no such folder."""
        with _named_errors(f"{folder}/any"):
            return sorted(self._files.below(folder))

    def local_path(self, key: str) -> Path | None:
        """Where the file lies, to be read only; None: not in a directory of this machine.

        Raises:
            ArtifactMissing: no such key in the directory.
        """
        with _named_errors(key):
            return self._files.path(key)

    def sign(self, key: str, seconds: float) -> str | None:
        """An address from which anybody can GET the file for so long; None: this store has none. The key is not
        looked up."""
        with _named_errors(key):
            return self._files.sign(key, seconds)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove keys, and directories that this empties; unknown keys do not matter."""
        for key in keys:
            with _named_errors(key):
                self._files.delete(key)

    def healthy(self) -> None:
        """Write and remove something small.

        Raises:
            ArtifactUnavailable: nothing can be stored now: the disk is (almost) full, or the store away.
        """
        try:
            self._files.check()
        except (BaseError, OSError, ValueError) as error:
            raise ArtifactUnavailable(f"artifacts cannot be stored: {_first_line(error)}") from error

    def discard_parts(self) -> None:
        """Remove what killed writers left unfinished in a directory; for the start of a service, when no writer can be
        alive."""
        self._files.discard_parts()

    def _put(self, key: str, chunks: Iterator[bytes], mime_type: str, filename: str | None) -> Artifact:
        name = filename or key.rpartition("/")[2]
        if filename is not None and not FILENAME.fullmatch(filename):
            raise ArtifactError(f"{filename!r} is no file name of letters, digits, spaces, '.', '_' and '-', up to 128")
        counted = _Counted(chunks)
        with _named_errors(key):
            try:
                self._files.add(key, counted, mime_type, name)
            except (FileExistsError, AlreadyExistsError):
                taken = True
            else:
                taken = False
        if taken and self._sha256(key) != counted.sha256():
            raise ArtifactExists(f"artifact {key} exists with other content")
        return Artifact(key=key, size_bytes=counted.size, sha256=counted.sha256(), mime_type=mime_type)

    def _chunks(self, key: str, start: int, size: int, chunk_bytes: int) -> Iterator[bytes]:
        for position in range(start, size, chunk_bytes):
            with _named_errors(key):
                chunk = self._files.read(key, position, min(position + chunk_bytes, size))
            yield chunk

    def _sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        for chunk in self.read(key):
            digest.update(chunk)
        return digest.hexdigest()


class _Counted:
    """Chunks on their way, with their size and hash."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._digest = hashlib.sha256()
        self.sha256: Callable[[], str] = self._digest.hexdigest
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._digest.update(chunk)
            self.size += len(chunk)
            yield chunk


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    with file:
        yield file


@contextmanager
def _named_errors(key: str) -> Iterator[None]:
    """Turn what obstore and the file system raise into ArtifactErrors that name the key, which is checked first."""
    if not KEY.fullmatch(key):
        raise ArtifactError(f"{key!r} is not an artifact key")
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactMissing(f"there is no artifact {key}") from error
    except (BaseError, OSError, ValueError) as error:
        raise ArtifactUnavailable(f"artifact {key}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """Without the debug dump that obstore appends, and without the paths that the file system's errors carry."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0]

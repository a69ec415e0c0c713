"""Finished files and media by key, in a local directory or an S3-compatible bucket.

Keys of results are ``jobs/{job_id}/{lease_epoch}/{file name}``. The epoch prevents a holder that lost its lease from
changing the files of its successor.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from zoetrope.cluster.storage.directory import DirectoryObjects
from zoetrope.cluster.storage.open import STORAGE_ERRORS, Objects, error_line, open_objects
from zoetrope.cluster.telemetry.metrics import STORE_ERRORS
from zoetrope.serving.jobs.job import Artifact

READ_BYTES = 1 << 20
COPY_BYTES = 8 << 20  # fewer requests to a bucket
KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,127}")  # needs no quoting in a header


class ArtifactError(Exception):
    """The store cannot be read or written, or the key is malformed; one line."""


class ArtifactMissing(ArtifactError):
    """There is no such key (any longer)."""


class ArtifactExists(ArtifactError):
    """The key holds other bytes."""


class ArtifactUnavailable(ArtifactError):
    """The disk is full, or the store cannot be reached; it may pass."""


def open_artifacts(url: str) -> ArtifactStore:
    """Open a store by its address.

    Args:
        url: ``s3://bucket/prefix?endpoint=...&region=...`` (see `cluster.storage.bucket`), ``file:///absolute/path`` or
            a plain path.

    Raises:
        ArtifactError: the address is none of these, or the directory cannot be created.
    """
    if not url:
        raise ArtifactError("no address for artifacts")
    scheme, separator, _ = url.partition("://")
    place = f"{scheme}://..." if separator else url  # without what it may say of credentials
    if separator and scheme not in ("s3", "file"):
        raise ArtifactError(f"cannot keep artifacts at {place}; use s3://bucket/prefix, file:///path or a path")
    try:
        return ArtifactStore(open_objects(url))
    except (*STORAGE_ERRORS, ValueError) as error:
        raise ArtifactError(f"cannot open the artifact store at {place}: {error_line(error)}") from error


class ArtifactStore:
    """Files by key. A key is written once, appears whole or not at all, and never changes until it is deleted.

    Safe to use from several threads and processes. What is reported as stored survives the death of any process; in a
    directory also the loss of power. How strict "written once" is in a bucket: `cluster.storage.bucket.BucketObjects`.
    """

    def __init__(self, root: Path | Objects) -> None:
        """Open or create a directory, or wrap what `open_objects` opened.

        Raises:
            ArtifactError: the directory cannot be created.
        """
        try:
            self._objects = DirectoryObjects(root) if isinstance(root, Path) else root
        except OSError as error:
            raise ArtifactError(f"cannot open the artifact directory {root}: {error_line(error)}") from error

    def put_file(self, key: str, path: Path, mime_type: str, filename: str | None = None) -> Artifact:
        """Store a copy of a file under a new key. Repeating a call with the same bytes changes nothing and succeeds.

        Args:
            filename: under which a browser saves it from a signed URL; default: the end of the key.

        Raises:
            ArtifactExists: the key holds other bytes.
            ArtifactUnavailable: the copy cannot be written.
            ArtifactError: the file cannot be read.
        """
        with _opened(path) as file:
            return self._put(key, iter(lambda: file.read(READ_BYTES), b""), mime_type, filename)

    def put_bytes(self, key: str, data: bytes, mime_type: str, filename: str | None = None) -> Artifact:
        """Store bytes; otherwise as `put_file`."""
        return self._put(key, iter((data,)), mime_type, filename)

    def read(self, key: str, offset: int = 0, chunk_bytes: int = READ_BYTES) -> Iterator[bytes]:
        """Read from ``offset`` to the end, in chunks of ``chunk_bytes`` (the last one may be shorter).

        Raises:
            ArtifactMissing: at once if there is no such key, or between chunks if it is deleted meanwhile.
            ArtifactUnavailable: the store cannot be reached.
            ValueError: at once if the offset is negative or past the end (the end itself gives no chunks), or the
                chunk size is not positive.
        """
        size = self.size(key)
        if not 0 <= offset <= size:
            raise ValueError(f"offset {offset} must be from 0 to {size}, the size of {key}")
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes {chunk_bytes} is not positive")
        return self._chunks(key, offset, size, chunk_bytes)

    def size(self, key: str) -> int:
        """Return the size in bytes. Raises ArtifactMissing if there is no such key."""
        with _named_errors(key):
            return self._objects.size(key)

    def exists(self, key: str) -> bool:
        """Return whether the key is stored."""
        try:
            self.size(key)
        except ArtifactMissing:
            return False
        return True

    def copy_to(self, key: str, path: Path) -> None:
        """Write a file's bytes to a local path, which must not exist; after an error it does not exist.

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
        """Return all keys below ``folder/``; none if there is no such folder."""
        with _named_errors(f"{folder}/any"):
            return sorted(self._objects.list_keys(folder))

    def local_path(self, key: str) -> Path | None:
        """Return the path of the file, to be read only; None: the store is not a local directory.

        Raises:
            ArtifactMissing: no such key in the directory.
        """
        with _named_errors(key):
            return self._objects.local_path(key)

    def sign(self, key: str, seconds: float) -> str | None:
        """Return a URL from which anybody can GET the file for so long; None: this store has none. The key need not
        exist."""
        with _named_errors(key):
            return self._objects.sign(key, seconds)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete keys, and directories that this empties; unknown keys are ignored."""
        for key in keys:
            with _named_errors(key):
                self._objects.delete(key)

    def healthy(self) -> None:
        """Check the store by writing and removing something small.

        Raises:
            ArtifactUnavailable: nothing can be stored now: the disk is (almost) full, or the store cannot be reached.
        """
        try:
            self._objects.check()
        except (*STORAGE_ERRORS, ValueError) as error:
            STORE_ERRORS.labels("artifacts").inc()
            raise ArtifactUnavailable(f"artifacts cannot be stored: {error_line(error)}") from error

    def discard_parts(self) -> None:
        """Delete what killed writers left unfinished in a directory. For the start of a service, when there are no
        writers."""
        self._objects.discard_parts()

    def _put(self, key: str, chunks: Iterator[bytes], mime_type: str, filename: str | None) -> Artifact:
        name = filename or key.rpartition("/")[2]
        if filename is not None and not FILENAME.fullmatch(filename):
            raise ArtifactError(f"filename is {filename!r}, must be 1 to 128 letters, digits, spaces, '.', '_' and '-'")
        counted = _Counted(chunks)
        with _named_errors(key):
            try:
                self._objects.create(key, counted, mime_type, name)
            except FileExistsError:
                taken = True
            else:
                taken = False
        if taken and self._sha256(key) != counted.sha256():
            raise ArtifactExists(f"artifact {key} exists with other content")
        return Artifact(key=key, size_bytes=counted.size, sha256=counted.sha256(), mime_type=mime_type)

    def _chunks(self, key: str, start: int, size: int, chunk_bytes: int) -> Iterator[bytes]:
        for position in range(start, size, chunk_bytes):
            with _named_errors(key):
                chunk = self._objects.read_range(key, position, min(position + chunk_bytes, size))
            yield chunk

    def _sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        for chunk in self.read(key):
            digest.update(chunk)
        return digest.hexdigest()


class _Counted:
    """Passes chunks on, and computes their size and hash."""

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
    except (*STORAGE_ERRORS, ValueError) as error:
        STORE_ERRORS.labels("artifacts").inc()
        raise ArtifactUnavailable(f"artifact {key}: {error_line(error)}") from error

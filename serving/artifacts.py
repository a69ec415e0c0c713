"""Finished files, in a directory by way of obstore, so that an object store can take its place.

Keys are ``jobs/{job_id}/{lease_epoch}/{file name}``. The epoch keeps a holder that lost its lease from touching the
files of its successor.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore

from serving.jobs.job import Artifact

READ_BYTES = 1 << 20
PARTS = "parts"  # where files are written before they get their keys
KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")


class ArtifactError(Exception):
    """The store cannot be read or written, or the key is malformed; one line."""


class ArtifactMissing(ArtifactError):
    """There is no such key (any more)."""


class ArtifactExists(ArtifactError):
    """The key is taken by other bytes."""


class ArtifactStore:
    """Files by key. A key is written once, appears whole or not at all, and never changes until it is deleted.

    Safe to use from several threads and processes. Files survive the death of any process; they are not synced to the
    disk, so that a loss of power may cost the last ones.
    """

    def __init__(self, root: Path) -> None:
        """Open or create the directory.

        Raises:
            ArtifactError: it cannot be created.
        """
        self._root = root
        try:
            self._store = LocalStore(root, mkdir=True, automatic_cleanup=True)
        except (BaseError, OSError, ValueError) as error:
            raise ArtifactError(f"cannot open the artifact directory {root}: {_first_line(error)}") from error

    def put_file(self, key: str, path: Path, mime_type: str) -> Artifact:
        """Store a copy of a file under a new key. Repeating a call with the same bytes changes nothing and succeeds.

        Raises:
            ArtifactExists: the key holds other bytes.
            ArtifactError: the file cannot be read or the copy not be written.
        """
        digest, size = hashlib.sha256(), 0
        # Streamed under another name and then renamed: obstore's own create-only put holds the whole file in memory.
        part = f"{PARTS}/{uuid4().hex}"
        with _named_errors(key), _opened(path) as file:

            def chunks() -> Iterator[bytes]:
                nonlocal size
                while chunk := file.read(READ_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    yield chunk

            try:
                obstore.put(self._store, part, chunks())
                obstore.rename(self._store, part, key, overwrite=False)
            except AlreadyExistsError:
                if self._sha256(key) != digest.hexdigest():
                    raise ArtifactExists(f"artifact {key} exists with other content") from None
            finally:
                self._discard(part)
        return Artifact(key=key, size_bytes=size, sha256=digest.hexdigest(), mime_type=mime_type)

    def read(self, key: str, offset: int = 0, chunk_bytes: int = READ_BYTES) -> Iterator[bytes]:
        """Bytes from ``offset`` to the end, in chunks of ``chunk_bytes`` (the last one may be shorter).

        Raises:
            ArtifactMissing: at once when there is no such key, or in between when it is deleted meanwhile.
            ValueError: at once when the offset is negative or past the end (the end itself gives no chunks), or the
                chunk size not positive.
        """
        with _named_errors(key):
            size = obstore.head(self._store, key)["size"]
        if not 0 <= offset <= size:
            raise ValueError(f"offset {offset} is not within 0 to {size}, the size of {key}")
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes {chunk_bytes} is not positive")
        return self._chunks(key, offset, size, chunk_bytes)

    def exists(self, key: str) -> bool:
        """Whether the key is stored."""
        try:
            with _named_errors(key):
                obstore.head(self._store, key)
        except ArtifactMissing:
            return False
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Remove keys, and directories that this empties; unknown keys do not matter."""
        for key in keys:
            with _named_errors(key):
                self._discard(key)

    def discard_parts(self) -> None:
        """Remove what killed writers left unfinished; for the start of a service, when no writer can be alive."""
        shutil.rmtree(self._root / PARTS, ignore_errors=True)

    def _discard(self, key: str) -> None:
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return

    def _chunks(self, key: str, start: int, size: int, chunk_bytes: int) -> Iterator[bytes]:
        for position in range(start, size, chunk_bytes):
            with _named_errors(key):
                chunk = obstore.get_range(self._store, key, start=position, end=min(position + chunk_bytes, size))
            yield bytes(chunk)

    def _sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        for chunk in self.read(key):
            digest.update(chunk)
        return digest.hexdigest()


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
        raise ArtifactError(f"artifact {key}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """obstore appends a debug dump to its messages."""
    return str(error).strip().partition("\n")[0]

"""Objects by key in a local directory.

Not `obstore.store.LocalStore`: it syncs nothing to the disk, cannot write a stream under a key that must be free, and
its errors carry no errno, by which a full disk or one that is not mounted is recognised.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

T = TypeVar("T")

PARTS = "parts"  # where `create` and `check` write files before they get their keys
UNFINISHED = "#"  # in the names under which `put` writes files before they get their keys; no key has it
ATTEMPTS = 20  # at putting a file into a directory that deleters may remove at the same time
MIN_FREE_BYTES = 64 << 20  # with less, the disk counts as full: a clip in the making would not fit


class DirectoryObjects:
    """A directory. Methods raise OSError: FileNotFoundError for an unknown key, FileExistsError for a taken one."""

    def __init__(self, root: Path, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._min_free = min_free_bytes

    def create(self, key: str, chunks: Iterable[bytes], mime_type: str, filename: str | None) -> None:
        """Write an object under a key that must be free. It appears whole, and when the call returns it survives a loss
        of power. A directory keeps no type and no file name."""
        path = self._root / key
        with _staged(self._root / PARTS / uuid4().hex, self._root) as (file, part):
            _write_synced(file, chunks)
            try:
                _in_directory(path.parent, lambda: os.link(part, path))
            finally:
                # Also when the key is taken: its writer may have died before it came to this.
                if path.exists():
                    for directory in path.parents:
                        _sync(directory)
                        if directory == self._root:
                            break

    def put(self, key: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write an object, or replace it. It appears whole and survives the death of any process, but perhaps not a
        loss of power. What a killed writer leaves lies beside the key: see `discard_unfinished`."""
        path = self._root / key
        with _staged(path.with_name(f"{path.name}{UNFINISHED}{uuid4().hex}"), self._root) as (file, part):
            for chunk in chunks:
                file.write(chunk)
            file.close()  # a network file system may report only now that there is no room
            os.replace(part, path)

    def size(self, key: str) -> int:
        return self.local_path(key).stat().st_size

    def read(self, key: str) -> bytes:
        return self.local_path(key).read_bytes()

    def read_range(self, key: str, start: int, end: int) -> bytes:
        with self.local_path(key).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there, and the directories that this empties."""
        path = self._root / key
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        _remove_empty(path.parent, self._root)

    def list_keys(self, folder: str, before: datetime | None = None) -> list[str]:
        """Return the keys below ``folder/``, or those written before a time (aware of its zone)."""
        return [
            path.relative_to(self._root).as_posix()
            for path in _files(self._root / folder)
            if UNFINISHED not in path.name and (before is None or _is_older(path, before))
        ]

    def local_path(self, key: str) -> Path:
        path = self._root / key
        if not path.is_file():
            if not self._root.is_dir():  # a file system that is not mounted has lost no file
                raise OSError(errno.ENODEV, "its directory is not there")
            raise FileNotFoundError(key)
        return path

    def sign(self, key: str, seconds: float) -> None:
        """Return None: a directory has no addresses."""

    def check(self) -> None:
        """Raise OSError where an object could not be written now."""
        with _staged(self._root / PARTS / uuid4().hex, self._root) as (file, _):
            _write_synced(file, [b"\0" * 4096])
        free = shutil.disk_usage(self._root).free
        if free < self._min_free:
            raise OSError(errno.ENOSPC, f"{free} bytes are free on its disk, at least {self._min_free} must be")

    def discard_parts(self) -> None:
        """Delete what killed writers left in `create`. One that is still writing fails."""
        shutil.rmtree(self._root / PARTS, ignore_errors=True)

    def discard_unfinished(self, folder: str) -> None:
        """Delete what killed writers left below ``folder/`` in `put`, also empty directories. One that is still writing
        fails."""
        for path in _files(self._root / folder):
            if UNFINISHED in path.name:
                path.unlink(missing_ok=True)
        for directory, _, _ in os.walk(self._root / folder, topdown=False):
            _remove_empty(Path(directory), self._root)


@contextmanager
def _staged(part: Path, root: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file to write, which goes away with the context unless it was renamed."""
    try:
        with _in_directory(part.parent, lambda: part.open("xb")) as file:
            yield file, part
    finally:
        part.unlink(missing_ok=True)
        _remove_empty(part.parent, root)


def _write_synced(file: BinaryIO, chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        file.write(chunk)
    file.flush()
    os.fsync(file.fileno())


def _in_directory(directory: Path, step: Callable[[], T]) -> T:
    """Take a step that needs a directory, which deleters may find empty and remove at any time."""
    for _ in range(ATTEMPTS):
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            continue
        except FileExistsError as error:
            raise NotADirectoryError(None, f"{directory.name} is a file, not a directory") from error
        try:
            return step()
        except FileNotFoundError:
            continue
    raise OSError(None, f"the directory {directory.name} does not stay")


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder; some may vanish meanwhile."""

    def failed(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    for directory, _, names in os.walk(folder, onerror=failed):
        yield from (Path(directory, name) for name in names)


def _is_older(path: Path, than: datetime) -> bool:
    try:
        return path.stat().st_mtime < than.timestamp()
    except FileNotFoundError:
        return False


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_empty(directory: Path, root: Path) -> None:
    while directory != root:
        try:
            directory.rmdir()
        except OSError:  # not empty, or gone already
            return
        directory = directory.parent

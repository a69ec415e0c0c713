"""Files by key in a local directory, synced to the disk before they count as stored."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

T = TypeVar("T")

PARTS = "parts"  # where files are written before they get their keys
ATTEMPTS = 20  # at putting a file into a directory that deleters may take away at the same time
MIN_FREE_BYTES = 64 << 20  # with less, the disk counts as full: a clip in the making would not fit


class LocalFiles:
    """A directory. Methods raise OSError: FileNotFoundError for an unknown key, FileExistsError for a taken one."""

    def __init__(self, root: Path, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._min_free = min_free_bytes

    def add(self, key: str, chunks: Iterable[bytes], mime_type: str, filename: str | None) -> None:
        """Write a file. It gets its key when all of it is on the disk, and the call returns when the name is, too."""
        with self._part(chunks) as part:
            self._link(part, self._root / key)

    def size(self, key: str) -> int:
        path = self.path(key)
        return path.stat().st_size

    def read(self, key: str, start: int, end: int) -> bytes:
        with self.path(key).open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def delete(self, key: str) -> None:
        """Remove a file, if it is there, and the directories that this empties."""
        path = self._root / key
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        _remove_empty(path.parent, self._root)

    def below(self, folder: str) -> list[str]:
        found = (self._root / folder).rglob("*")
        return [path.relative_to(self._root).as_posix() for path in found if path.is_file()]

    def path(self, key: str) -> Path:
        path = self._root / key
        if not path.is_file():
            if not self._root.is_dir():  # a file system that is not mounted has lost no file
                raise OSError(errno.ENODEV, "its directory is not there")
            raise FileNotFoundError(key)
        return path

    def sign(self, key: str, seconds: float) -> None:
        """A directory signs nothing."""

    def check(self) -> None:
        """Raises OSError where a file could not be written now."""
        with self._part([b"\0" * 4096]):
            pass
        free = shutil.disk_usage(self._root).free
        if free < self._min_free:
            raise OSError(errno.ENOSPC, f"{free} bytes are free on its disk, {self._min_free} have to be")

    def discard_parts(self) -> None:
        shutil.rmtree(self._root / PARTS, ignore_errors=True)

    @contextmanager
    def _part(self, chunks: Iterable[bytes]) -> Iterator[Path]:
        """A synced file with these bytes, which goes away with the context."""
        path = self._root / PARTS / uuid4().hex
        try:
            with _again(lambda: path.open("xb"), path.parent) as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)
            _remove_empty(path.parent, self._root)

    def _link(self, part: Path, path: Path) -> None:
        try:
            _again(lambda: os.link(part, path), path.parent)
        finally:
            # Also when the key is taken: its writer may have died before it came to this.
            if path.exists():
                for directory in path.parents:
                    _sync(directory)
                    if directory == self._root:
                        break


def _again(step: Callable[[], T], directory: Path) -> T:
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

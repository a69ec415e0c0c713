"""Files that are open already, for code that asks for a path."""

from __future__ import annotations

import io
import os
from pathlib import PosixPath
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class NotWritten(Exception):
    """A result cannot be written, which is not the fault of the file from outside; holds the errno."""


class OpenFile(PosixPath):
    """A file descriptor that calls itself by the name of its file. `open` works as often as one likes, each time from
    the beginning, and opens nothing; whatever else asks the file system about a path looks for one of this name."""

    _descriptor: int
    _called: str

    @classmethod
    def of(cls, descriptor: int, name: str) -> Self:
        """Take a descriptor, which stays the caller's; ``name`` is what messages say."""
        file = cls(name)
        file._descriptor, file._called = descriptor, name
        return file

    def __str__(self) -> str:
        return self._called

    def open(self, mode: str = "r", *_: Any, **__: Any) -> Any:
        """Start a buffered stream at the beginning.

        Raises:
            ValueError: the mode is neither "rb" nor "wb". Writing raises NotWritten.
        """
        if mode == "rb":
            return io.BufferedReader(Bytes(self._descriptor))
        if mode == "wb":
            return io.BufferedWriter(Bytes(self._descriptor))
        raise ValueError(f"{mode!r} is neither 'rb' nor 'wb'")

    def read_bytes(self) -> bytes:
        with self.open("rb") as file:
            content: bytes = file.read()
        return content


class Bytes(io.RawIOBase):
    """A place of its own in an open file, by positioned reads and writes alone: several can share a descriptor, and
    none asks for a system call that a confined process has not."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._position = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = os.preadv(self._descriptor, [buffer], self._position)
        self._position += count
        return count

    def write(self, data: ReadableBuffer) -> int:
        """Write all of it.

        Raises:
            NotWritten.
        """
        with memoryview(data).cast("B") as left:
            written = 0
            try:
                while written < len(left):
                    written += os.pwrite(self._descriptor, left[written:], self._position + written)
            except OSError as error:
                raise NotWritten(error.errno) from error
        self._position += written
        return written

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        match whence:
            case os.SEEK_SET:
                base = 0
            case os.SEEK_CUR:
                base = self._position
            case os.SEEK_END:
                base = os.lseek(self._descriptor, 0, os.SEEK_END)
            case _:
                raise ValueError(f"whence {whence} is none of 0, 1 and 2")
        if base + offset < 0:
            raise OSError(22, os.strerror(22))
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

"""Pass open file descriptors to code that expects a path."""

from __future__ import annotations

import io
import os
from pathlib import PosixPath
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class NotWritten(Exception):
    """A result cannot be written, which is not the input file's fault. The argument is the errno."""


class OpenFile(PosixPath):
    """A path whose `open` returns a stream on an open descriptor, from the beginning each time, without opening a file.
    All other methods still treat it as a path of its name."""

    _descriptor: int
    _label: str

    @classmethod
    def of(cls, descriptor: int, name: str) -> Self:
        """Wrap a descriptor, which the caller keeps; ``name`` appears in messages."""
        file = cls(name)
        file._descriptor, file._label = descriptor, name
        return file

    def __str__(self) -> str:
        return self._label

    def open(self, mode: str = "r", *_: Any, **__: Any) -> Any:
        """Return a buffered stream at the beginning of the file; writing may raise NotWritten.

        Raises:
            ValueError: the mode is neither "rb" nor "wb".
        """
        if mode == "rb":
            return io.BufferedReader(DescriptorStream(self._descriptor))
        if mode == "wb":
            return io.BufferedWriter(DescriptorStream(self._descriptor))
        raise ValueError(f"mode {mode!r} must be 'rb' or 'wb'")

    def read_bytes(self) -> bytes:
        with self.open("rb") as file:
            content: bytes = file.read()
        return content


class DescriptorStream(io.RawIOBase):
    """A stream with its own position that uses only positioned reads and writes: several can share a descriptor, and a
    confined process may use it."""

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
        """Write all of ``data``.

        Raises:
            NotWritten: with the errno.
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
                raise ValueError(f"whence is {whence}, must be 0, 1 or 2")
        if base + offset < 0:
            raise OSError(22, os.strerror(22))
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

"""Read an adapter file's bytes once: its digest, and whether a tensor holds NaN or infinity. Needs no torch."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.safetensors_header import SafetensorsEntry, SafetensorsHeader
from zoetrope.model.inspection.shown import shown

CHUNK = 16 << 20  # bytes; a multiple of every element
# Bytes of an element, and the bits of its exponent, which are all set in NaN and infinity.
_EXPONENTS = {"F32": (4, 0x7F80_0000), "BF16": (2, 0x7F80), "F16": (2, 0x7C00)}


def check_contents(header: SafetensorsHeader) -> str:
    """Check that all numbers are finite; return the SHA-256 of the file. A file that has not changed is read once.

    Raises:
        ModelError: a tensor holds NaN or infinity, or the file cannot be read.
    """
    try:
        status = header.path.stat()
        return _digest(_Hashed(header), status.st_ino, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise ModelError(f"{header.path}: cannot be read: {error.strerror}") from None


def is_zero(header: SafetensorsHeader, name: str) -> bool:
    """Tell whether all numbers of a tensor are zero, of either sign."""
    data, size = header.read(name), _EXPONENTS[header.tensors[name].dtype][0]
    if data.count(0) == len(data):
        return True
    signs = data[size - 1 :: size]
    return not signs.translate(None, b"\x00\x80") and data.count(0) + signs.count(0x80) == len(data)


class _Hashed:
    """A header, equal to another of the same file."""

    def __init__(self, header: SafetensorsHeader) -> None:
        self.header = header

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.header.path == other.header.path

    def __hash__(self) -> int:
        return hash(self.header.path)


@lru_cache(maxsize=64)
def _digest(hashed: _Hashed, inode: int, size: int, changed: int) -> str:
    header = hashed.header
    digest = hashlib.sha256()
    with header.path.open("rb") as file:
        begin = min((span.start for span in header.tensors.values()), default=0)
        digest.update(file.read(begin))
        for span in header.tensors.values():  # in the order of their bytes, without gaps
            left = span.size
            while left:
                data = file.read(min(CHUNK, left))
                if not data:
                    raise ModelError(f"{header.path}: has changed while it was read")
                left -= len(data)
                digest.update(data)
                _check_finite(header.path, span, data)
    return digest.hexdigest()


def _check_finite(path: Path, span: SafetensorsEntry, data: bytes) -> None:
    import numpy as np  # loaded where a file is read, not with the command line

    size, exponent = _EXPONENTS[span.dtype]
    bits = np.frombuffer(data, f"<u{size}")
    if bool(((bits & exponent) == exponent).any()):
        raise ModelError(f"{path}: {shown(span.name)} holds NaN or infinity")

"""Identify weight files by what is in them, without reading all of it. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from zoetrope.model.inspection.files import ModelError

HEAD_BYTES = 1 << 20  # names, shapes, and the first scales
SAMPLES, SAMPLE_BYTES = 64, 4 << 10  # spread evenly over the rest


def fingerprint(paths: Iterable[Path]) -> str:
    """Return 16 hexadecimal digits of files: of their sizes, their beginnings and samples of the rest.

    Raises:
        ModelError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(_of_file(path))
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:16]


def _of_file(path: Path) -> bytes:
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        digest.update(file.read(HEAD_BYTES))
        for number in range(SAMPLES if size > HEAD_BYTES else 0):
            file.seek(HEAD_BYTES + (size - HEAD_BYTES) * number // SAMPLES)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.digest()

"""Check the files of a folder against the list of hashes beside them, as ``sha256sum`` writes it. Needs no torch."""

from __future__ import annotations

import re
from pathlib import Path

from zoetrope.model.inspection.files import ModelError, typed_path
from zoetrope.model.inspection.hashes import OnHashed, hashes_of, ignore_hashed

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def verify(folder: Path, on_hashed: OnHashed = ignore_hashed) -> int:
    """Check every file that ``SHA256SUMS`` in a folder names; returns how many there are.

    Several are read at a time, and their hashes are kept (`model.inspection.hashes`): who loads them later on this
    machine need not hash them again.

    Raises:
        ModelError: there is no list, it is not one, or a file is missing or another; the message names it.
    """
    folder = typed_path(str(folder), "folder")
    sums = folder / SUMS
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ModelError(f"{sums}: the file is missing: who has the right files makes it with sha256sum") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"{sums}: cannot be read: {reason}") from None
    wanted: dict[Path, str] = {}
    for number, line in enumerate(lines, 1):
        match = LINE.fullmatch(line)
        path = folder / match[2] if match else folder
        if match is None or not path.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{sums}: line {number} must be a SHA-256, two spaces and a file of this folder")
        wanted[path] = match[1]
    if not wanted:
        raise ModelError(f"{sums}: names no file")
    for (path, digest), found in zip(wanted.items(), hashes_of(list(wanted), on_hashed), strict=True):
        if found != digest:
            raise ModelError(f"{path}: its SHA-256 is {found}, not {digest} as {SUMS} says")
    return len(wanted)

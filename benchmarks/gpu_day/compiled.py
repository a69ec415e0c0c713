"""Carry compiled kernels: Triton's cache as one file, without what a launch does not need."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

KEPT = (".cubin", ".json")  # of a cache entry; the intermediate representations are several times as large
GROUP = "__grp__"  # Triton's list of an entry's files, with absolute paths
MANIFEST = "manifest.json"


def pack(cache: Path, path: Path, manifest: dict[str, Any]) -> int:
    """Write the entries of a cache to an archive, with a manifest; return how many there are.

    Raises:
        ValueError: the cache is empty.
    """
    entries = sorted(folder for folder in cache.iterdir() if any(folder.glob("*.cubin")))
    if not entries:
        raise ValueError(f"{cache} holds no compiled kernel")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with tarfile.open(scratch, "w:gz") as archive:
        text = json.dumps({**manifest, "kernels": len(entries)}, indent=1).encode()
        about = tarfile.TarInfo(MANIFEST)
        about.size = len(text)
        archive.addfile(about, io.BytesIO(text))
        for folder in entries:
            for file in sorted(folder.iterdir()):
                if file.suffix in KEPT:
                    archive.add(file, f"{folder.name}/{file.name}")
    scratch.replace(path)
    return len(entries)


def unpack(path: Path, cache: Path) -> int:
    """Unpack an archive into a cache folder at any path; return how many entries it has.

    Triton looks for the files of an entry at the paths where they were made, so those are rewritten.

    Raises:
        ValueError: it is no archive of compiled kernels.
    """
    cache = cache.resolve()
    try:
        with tarfile.open(path) as archive:
            archive.extractall(cache, filter="data")
        for listing in cache.glob(f"*/{GROUP}*"):
            stored = json.loads(listing.read_text())
            there = {name: str(listing.parent / name) for name in stored["child_paths"]}
            listing.write_text(json.dumps({"child_paths": there}))
        kernels: int = json.loads((cache / MANIFEST).read_text())["kernels"]
        return kernels
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no archive of compiled kernels: {error}") from error


def manifest(cache: Path) -> dict[str, Any] | None:
    """Return the manifest of a cache that was unpacked; None if it was not carried."""
    path = cache / MANIFEST
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found

"""One file with all outcomes so far: what a machine that keeps nothing gives back."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

from zoetrope.benchmarks.gpu_day import outcome

NAME = "results.tar.gz"


def pack(work: Path, path: Path) -> None:
    """Write the folders of all stages with a valid outcome; the old archive stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with tarfile.open(scratch, "w:gz", compresslevel=3) as archive:
        for folder in sorted(work.iterdir()):
            found = outcome.read(folder) if folder.is_dir() else None
            if found is not None:
                for name in (outcome.FILE, *found.files):
                    archive.add(folder / name, f"{folder.name}/{name}", recursive=False)
    scratch.replace(path)


def unpack(path: Path, work: Path) -> list[str]:
    """Add the stages of an archive that ``work`` has no valid outcome of; return their names.

    Raises:
        ValueError: it is no archive of this kind.
    """
    work.mkdir(parents=True, exist_ok=True)
    scratch = work / f".unpacked.{os.getpid()}"
    added = []
    try:
        with tarfile.open(path) as archive:
            archive.extractall(scratch, filter="data")
        for folder in sorted(scratch.iterdir()) if scratch.is_dir() else ():
            if outcome.read(folder) is not None and outcome.read(work / folder.name) is None:
                shutil.rmtree(work / folder.name, ignore_errors=True)
                folder.rename(work / folder.name)
                added.append(folder.name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no archive of results: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return added

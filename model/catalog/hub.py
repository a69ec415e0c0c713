"""Find models in Hugging Face's cache: ``models--ORG--NAME/snapshots/COMMIT``. Needs neither torch nor the network.

The cache's layout and its environment variables follow huggingface_hub's documentation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from zoetrope.model.inspection.files import ModelError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CACHED = re.compile(r"models--([A-Za-z0-9][\w.-]*?)--([A-Za-z0-9][\w.-]*)")
COMMIT = re.compile(rb"[A-Za-z0-9_-]{1,64}")
MAX_LINKS = 40  # as in Linux


def hub_cache() -> Path:
    """Return the cache's folder on this machine, by huggingface_hub's variables."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := os.environ.get(name):
            return Path(value).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or str(Path(base) / "huggingface")
    return Path(home).expanduser() / "hub"


def cached_repository(name: str) -> Path | None:
    """Find a repository's folder in the cache; None if ``name`` is not ORG/NAME or is not cached."""
    if not REPOSITORY.fullmatch(name):
        return None
    folder = hub_cache() / f"models--{name.replace('/', '--')}"
    return folder if folder.is_dir() else None


def snapshot_of(folder: Path) -> Path:
    """Return the snapshot in a repository's cache folder: the commit that ``refs/main`` names, or the only one.

    Other folders are returned unchanged.

    Raises:
        ModelError: there is no snapshot, or there are several and none is ``main``.
    """
    if not CACHED.fullmatch(folder.name) and not CACHED.fullmatch(folder.resolve().name):
        return folder
    if not (folder / "snapshots").is_dir():
        return folder
    if (main := _main(folder)) is not None:
        return main
    snapshots = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    if len(snapshots) == 1:
        return snapshots[0]
    found = f"holds {len(snapshots)}: name one of them" if snapshots else "is empty: the download is incomplete"
    raise ModelError(f"{folder / 'snapshots'}: {found}")


def _main(folder: Path) -> Path | None:
    """Return the snapshot that ``refs/main`` names; None if it names none that is there."""
    reference = folder / "refs" / "main"
    if not reference.is_file():
        return None
    with reference.open("rb") as file:
        commit = file.read(100).strip()
    snapshot = folder / "snapshots" / os.fsdecode(commit)
    return snapshot if COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def why_not_cached(name: str) -> str:
    """Say that a repository, ORG/NAME, is not on this machine, and how to get it."""
    return (
        f"{name!r} looks like a Hugging Face repository, but is not a directory here and not in {hub_cache()}: "
        f"download it where there is a network (zoetrope pull {name}), or give its directory"
    )


def repository_of(path: Path) -> str | None:
    """Return the repository that a folder is from, ORG/NAME, by its place in a cache; links are followed."""
    for place in places(path):
        for part in reversed(place.parts):
            if match := CACHED.fullmatch(part):
                return f"{match[1]}/{match[2]}"
    return None


def places(path: Path) -> Iterator[Path]:
    """Yield the absolute path as given, then the target of each symbolic link on it in turn."""
    current = Path(os.path.abspath(path))
    for _ in range(MAX_LINKS):
        yield current
        link = next((part for part in (*reversed(current.parents), current) if part.is_symlink()), None)
        if link is None:
            return
        target = Path(os.path.normpath(link.parent / os.readlink(link)))
        current = target / current.relative_to(link)

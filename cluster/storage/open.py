"""Opens the storage that a URL names."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError

from zoetrope.cluster.storage.bucket import BucketObjects
from zoetrope.cluster.storage.directory import DirectoryObjects

# Methods raise FileNotFoundError for an unknown key, FileExistsError for one that is taken, else one of these.
STORAGE_ERRORS = (BaseError, OSError)
Objects: TypeAlias = DirectoryObjects | BucketObjects


def open_objects(url: str) -> Objects:
    """Open or create a storage.

    Args:
        url: the path of a directory, ``file:///absolute/path``, or what `BucketObjects` takes.

    Raises:
        ValueError: the URL is malformed.
        BaseError, OSError: it cannot be opened.
    """
    if "://" not in url:
        return DirectoryObjects(Path(url).expanduser())
    if not url.startswith("file://"):
        return BucketObjects(url)
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query:
        raise ValueError("a file URL must be file:///absolute/path")
    return DirectoryObjects(Path(unquote(parts.path)))


def error_line(error: Exception) -> str:
    """Describe a storage error in one line: without the dump that obstore appends and without the paths in the file
    system's errors."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0]

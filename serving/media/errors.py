"""Errors of media files."""

from pathlib import Path

from zoetrope.model.runtime.errors import Picklable


class MediaError(Exception):
    """A file or its frames are invalid; the message is one line."""


class NoVideo(MediaError):
    """The file has sound but no video."""


class TookTooLong(MediaError):
    """The file could not be read within the time limit."""


class NotWritable(Picklable, MediaError):
    """A file cannot be written. ``errno``: the system's error number, if there is one."""

    def __init__(self, path: Path, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        super().__init__(f"cannot write {path}: {reason}")
        self.errno = error.errno if isinstance(error, OSError) else None

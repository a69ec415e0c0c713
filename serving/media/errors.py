"""What is wrong with a file."""

from pathlib import Path

from model.errors import Picklable


class MediaError(Exception):
    """A file or frames are not what they have to be; one line."""


class NoVideo(MediaError):
    """It has sound, and no pictures that move."""


class TookTooLong(MediaError):
    """It was not read to its end within the time that there was for it."""


class NotWritable(Picklable, MediaError):
    """A file cannot be written. ``errno``: what the system says, if it is the system's fault."""

    def __init__(self, path: Path, error: Exception) -> None:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        super().__init__(f"cannot write {path}: {said}")
        self.errno = error.errno if isinstance(error, OSError) else None

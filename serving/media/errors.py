"""The one error of this package."""


class MediaError(Exception):
    """A file or frames are not what they have to be; one line."""

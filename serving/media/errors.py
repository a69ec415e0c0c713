"""What is wrong with a file."""


class MediaError(Exception):
    """A file or frames are not what they have to be; one line."""


class NoVideo(MediaError):
    """It has sound, and no pictures that move."""

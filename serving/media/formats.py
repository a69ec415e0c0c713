"""Which files clients may send."""

from __future__ import annotations

from serving.media.errors import MediaError
from serving.media.info import MediaInfo
from serving.media.sound import SoundInfo

MAX_UPLOAD_BYTES = 100_000_000
ACCEPTED = "MP4 (H.264, H.265), WebM (VP9, AV1), PNG, JPEG and WebP"
# By container, as `serving.media.info` names it, and codec. WebM is a kind of Matroska.
MIME_TYPES = {
    ("mp4", "h264"): "video/mp4",
    ("mp4", "hevc"): "video/mp4",
    ("mkv", "vp9"): "video/webm",
    ("mkv", "av1"): "video/webm",
    ("png", "png"): "image/png",
    ("jpeg", "jpeg"): "image/jpeg",
    ("webp", "webp"): "image/webp",
}
# By FFmpeg's name of the container; any codec inside.
SOUND_MIME_TYPES = {
    "mp4": "audio/mp4",
    "mkv": "audio/webm",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "aac": "audio/aac",
    "ogg": "audio/ogg",
    "aiff": "audio/aiff",
}


def check_format(info: MediaInfo) -> None:
    """Of animated pictures only the first frame counts, as everywhere.

    Raises:
        MediaError: not one of the formats that are accepted; names them all.
    """
    if (info.container, info.codec) not in MIME_TYPES:
        what = info.container if info.container == info.codec else f"{info.codec} in {info.container}"
        raise MediaError(f"is {what}; accepted are {ACCEPTED}")


def mime_type(info: MediaInfo) -> str:
    """Of a file that `check_format` accepts."""
    return MIME_TYPES[info.container, info.codec]


def sound_mime_type(info: SoundInfo) -> str:
    return SOUND_MIME_TYPES.get(info.container, "application/octet-stream")


def check_size(size_bytes: int) -> None:
    """
    Raises:
        MediaError: nothing, or more than MAX_UPLOAD_BYTES.
    """
    if size_bytes < 1:
        raise MediaError("is empty")
    if size_bytes > MAX_UPLOAD_BYTES:
        raise MediaError(f"has {size_bytes} bytes, the limit is {MAX_UPLOAD_BYTES}")

"""Media formats that are accepted: in uploads, by `--local` and by `zoetrope prepare`.

The first bytes of a file determine its format; its name does not matter.
"""

from __future__ import annotations

from functools import cache

import av

from zoetrope.serving.media.errors import MediaError

MAX_UPLOAD_BYTES = 100_000_000
SUPPORTED = (
    "pictures (PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, HEIC), "
    "clips (MP4, MOV, 3GP, MKV, WebM, AVI, MPEG-TS, MPEG-PS, FLV, Ogg, WMV; animated GIF, WebP, PNG, AVIF) and "
    "sounds (WAV, W64, AIFF, CAF, MP3, FLAC, AAC, M4A, Ogg, WMA, AMR, or the track of a clip)"
)

# Formats that FFmpeg may detect. No playlists: they refer to other files and to URLs.
CONTAINERS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf"),
    *("wav", "w64", "aiff", "caf", "mp3", "flac", "aac", "amr"),
)
# Codecs by FFmpeg's names. It has hundreds more, of games and old systems; each adds attack surface.
VIDEO_CODECS = (
    *("h264", "hevc", "vvc", "av1", "vp8", "vp9", "theora"),
    *("mpeg1video", "mpeg2video", "mpeg4", "h263", "flv1", "msmpeg4v3", "wmv1", "wmv2", "wmv3", "vc1"),
    *("prores", "dnxhd", "cfhd", "dvvideo", "mjpeg", "jpeg2000", "png", "qtrle"),
    *("ffv1", "ffvhuff", "huffyuv", "utvideo", "magicyuv", "rawvideo", "v210"),
)
SOUND_CODECS = (  # and all PCM codecs
    *("aac", "mp3", "mp2", "opus", "vorbis", "flac", "alac", "ac3", "eac3", "dts", "truehd"),
    *("wmav1", "wmav2", "wmapro", "amr_nb", "amr_wb", "speex", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt"),
)
# Pictures by Pillow's names. ANIMATED ones are clips if they have several frames.
PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
ANIMATED = ("PNG", "WEBP", "GIF", "AVIF")

# Media types by container, as `serving.media.info` names it.
PICTURE_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "avif": "image/avif",
    "heif": "image/heic",
}
CLIP_TYPES = {
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "3gp": "video/3gpp",
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "avi": "video/x-msvideo",
    "mpegts": "video/mp2t",
    "mpeg": "video/mpeg",
    "flv": "video/x-flv",
    "ogg": "video/ogg",
    "asf": "video/x-ms-wmv",
}
SOUND_TYPES = {
    "mp4": "audio/mp4",
    "mov": "audio/mp4",
    "3gp": "audio/3gpp",
    "mkv": "audio/x-matroska",
    "webm": "audio/webm",
    "ogg": "audio/ogg",
    "asf": "audio/x-ms-wma",
    "wav": "audio/wav",
    "w64": "audio/x-w64",
    "aiff": "audio/aiff",
    "caf": "audio/x-caf",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "aac": "audio/aac",
    "amr": "audio/amr",
}
MEDIA_TYPES = tuple(sorted({*PICTURE_TYPES.values(), *CLIP_TYPES.values(), *SOUND_TYPES.values()}))
# File name suffixes of clips, to find them in a folder that also holds other files.
CLIP_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".flv"),
    *(".ogv", ".wmv", ".gif"),
)


@cache
def decoders() -> tuple[str, ...]:
    """Return FFmpeg's names of the decoders for these codecs."""
    return tuple(sorted(name for name in av.codecs_available if _decodes(name)))


def _decodes(name: str) -> bool:
    try:
        codec = av.Codec(name, "r").canonical_name
    except ValueError:  # an encoder only
        return False
    return codec in VIDEO_CODECS or is_sound_codec(codec)


def is_sound_codec(codec: str) -> bool:
    """Tell whether sound of this codec is accepted."""
    return codec in SOUND_CODECS or codec.startswith("pcm_")


def media_type(container: str, kind: str) -> str:
    """Return the media type of a file.

    Args:
        container: as in `serving.media.info.ProbedMedia`.
        kind: "image", "clip" or "sound".
    """
    if container in PICTURE_TYPES:
        return PICTURE_TYPES[container]
    return (SOUND_TYPES if kind == "sound" else {}).get(container) or CLIP_TYPES[container]


def check_size(size_bytes: int) -> None:
    """Check the size of an upload.

    Raises:
        MediaError: it is 0 or exceeds MAX_UPLOAD_BYTES.
    """
    if size_bytes < 1:
        raise MediaError("is empty")
    if size_bytes > MAX_UPLOAD_BYTES:
        raise MediaError(f"has {size_bytes} bytes, the limit is {MAX_UPLOAD_BYTES}")

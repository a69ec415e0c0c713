"""Media files: read pictures and clips, write videos, look into files, check them.

Frames are uint8 RGB ``[n, H, W, 3]``.
"""

from model.fit import Frames, resize_cover
from serving.media.clips import MAX_CLIP_BYTES, MAX_CLIP_FRAMES, MAX_CLIP_PIXELS, MAX_CLIP_SECONDS, read_clip
from serving.media.errors import MediaError
from serving.media.info import MediaInfo, probe, verify
from serving.media.pictures import MAX_PICTURE_PIXELS, read_picture
from serving.media.writer import ENCODINGS, Container, Encoding, VideoWriter

__all__ = [
    "ENCODINGS",
    "MAX_CLIP_BYTES",
    "MAX_CLIP_FRAMES",
    "MAX_CLIP_PIXELS",
    "MAX_CLIP_SECONDS",
    "MAX_PICTURE_PIXELS",
    "Container",
    "Encoding",
    "Frames",
    "MediaError",
    "MediaInfo",
    "VideoWriter",
    "probe",
    "read_clip",
    "read_picture",
    "resize_cover",
    "verify",
]

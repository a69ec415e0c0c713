"""Media files: read pictures and clips, write videos and pictures, look into files, check them.

Frames are uint8 RGB ``[n, H, W, 3]``.
"""

from model.fit import Frames, resize_cover
from serving.media.clips import read_clip
from serving.media.errors import MediaError
from serving.media.formats import MAX_UPLOAD_BYTES
from serving.media.info import MediaInfo, probe, probe_any, verify
from serving.media.picture_writer import PictureContainer, write_picture
from serving.media.pictures import MAX_PICTURE_PIXELS, read_picture
from serving.media.sound import SoundInfo, probe_sound, write_sound
from serving.media.streams import MAX_CLIP_BYTES, MAX_CLIP_FRAMES, MAX_CLIP_PIXELS, MAX_CLIP_SECONDS
from serving.media.tags import read_metadata
from serving.media.writer import ENCODINGS, Container, Encoding, VideoWriter

__all__ = [
    "ENCODINGS",
    "MAX_CLIP_BYTES",
    "MAX_CLIP_FRAMES",
    "MAX_CLIP_PIXELS",
    "MAX_CLIP_SECONDS",
    "MAX_PICTURE_PIXELS",
    "MAX_UPLOAD_BYTES",
    "Container",
    "Encoding",
    "Frames",
    "MediaError",
    "MediaInfo",
    "PictureContainer",
    "SoundInfo",
    "VideoWriter",
    "probe",
    "probe_any",
    "probe_sound",
    "read_clip",
    "read_metadata",
    "read_picture",
    "resize_cover",
    "verify",
    "write_picture",
    "write_sound",
]

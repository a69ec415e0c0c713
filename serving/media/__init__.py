"""Read, write, probe and verify media files: pictures, clips and sound.

Frames are uint8 RGB ``[n, H, W, 3]``.
"""

from zoetrope.model.media.resize import resize_cover
from zoetrope.serving.media.clips import read_clip
from zoetrope.serving.media.errors import MediaError
from zoetrope.serving.media.info import ProbedMedia, probe, probe_any, verify
from zoetrope.serving.media.picture_writer import PictureContainer, write_picture
from zoetrope.serving.media.pictures import MAX_PICTURE_PIXELS, read_picture
from zoetrope.serving.media.sound import probe_sound, write_sound
from zoetrope.serving.media.streams import MAX_CLIP_SECONDS
from zoetrope.serving.media.tags import read_metadata
from zoetrope.serving.media.writer import Container, VideoWriter

__all__ = [
    "MAX_CLIP_SECONDS",
    "MAX_PICTURE_PIXELS",
    "Container",
    "MediaError",
    "PictureContainer",
    "ProbedMedia",
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

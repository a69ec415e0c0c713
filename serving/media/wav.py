"""Check that a file is exactly the plain WAV that `serving.media.write_sound` writes.

A worker's output is decoded outside the sandbox, but a compromised worker could write anything. So the file is parsed
here, without a decoder, before FFmpeg reads it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Final

import av

from zoetrope.serving.media.errors import MediaError
from zoetrope.serving.media.sound import CHANNELS, RATE

FRAME_BYTES: Final = 4 * CHANNELS
# Format (WAVE_FORMAT_EXTENSIBLE or _IEEE_FLOAT), channels, rate, bytes per second, bytes per frame, bits per sample.
FORMATS: Final = [
    struct.pack("<HHIIHH", tag, CHANNELS, RATE, RATE * FRAME_BYTES, FRAME_BYTES, 32) for tag in (0xFFFE, 3)
]
# Of the extensible format: valid bits, front left and right, and the GUID of IEEE float.
EXTENSION: Final = struct.pack("<HHI", 22, 32, 3) + bytes.fromhex("0300000000001000800000aa00389b71")
MAX_NOTE_BYTES: Final = 64  # the encoder's name
WRONG: Final = "the decoder wrote an invalid WAV file"


def check_wav(path: Path) -> float:
    """Parse all of the file except its samples.

    Returns:
        Its duration in seconds.

    Raises:
        MediaError: it is anything else.
    """
    with path.open("rb") as file:
        seconds = _length(file)
        file.seek(0)
        try:  # make sure that FFmpeg detects nothing else, whatever the samples look like
            options = {"format_whitelist": "wav", "codec_whitelist": "pcm_f32le", "protocol_whitelist": "none"}
            with av.open(file, container_options=options) as sound:
                if [stream.type for stream in sound.streams] != ["audio"]:
                    raise MediaError(WRONG)
        except av.FFmpegError:
            raise MediaError(WRONG) from None
    return seconds


def _length(file: BinaryIO) -> float:
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(12)
    if head[:4] != b"RIFF" or int.from_bytes(head[4:8], "little") != size - 8 or head[8:] != b"WAVE":
        raise MediaError(WRONG)
    known = False
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise MediaError(WRONG)
        kind, length = head[:4], int.from_bytes(head[4:], "little")
        if kind == b"data":
            if not known or length % FRAME_BYTES or file.tell() + length != size:
                raise MediaError(WRONG)
            return length / FRAME_BYTES / RATE
        body = file.read(min(length, MAX_NOTE_BYTES + 1))
        match kind:
            case b"fmt ":
                known = body[:16] in FORMATS and body[16:] in (b"", b"\0\0", EXTENSION)
            case b"fact" if length == 4:
                pass
            case b"LIST" if length <= MAX_NOTE_BYTES and body.startswith(b"INFOISFT"):
                pass
            case _:
                raise MediaError(WRONG)

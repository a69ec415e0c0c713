"""The worker process that decodes untrusted files; `serving.media.sandbox.worker_process` starts it.

Each request is one message on the Unix socket at standard input: JSON, and descriptors for the answer, the file and
(for some operations) the decoded data. A child that was forked in advance handles it: it writes its process id and a
JSON answer, and exits; the worker sends its exit status back over the socket. See `serving.media.sandbox.confine`.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, TypeAlias

from zoetrope.serving.media.sandbox.confine import Confinement, ResourceLimits, die_with, lacking
from zoetrope.serving.media.sandbox.open_file import NotWritten, OpenFile

MESSAGE_BYTES: Final = 1 << 16  # of a request
DESCRIPTORS: Final = 3
STANDING_BY: Final = 2  # idle children, so that one is ready while another is replaced
CHILD: Final = struct.Struct("=i")

# (file, [result file,] **options) -> the answer's result
Operation: TypeAlias = Callable[..., dict[str, Any]]


def operations() -> dict[str, Operation]:
    """Load the decoders and return the operations by name."""
    import numpy as np
    from numpy.typing import NDArray

    from zoetrope.serving.media.clips import read_clip
    from zoetrope.serving.media.info import ProbedMedia, pixels_to_decode, probe_any
    from zoetrope.serving.media.pictures import read_picture
    from zoetrope.serving.media.sound import write_sound

    def dumped(pixels: NDArray[np.uint8], to: Path) -> list[int]:
        with to.open("wb") as file:
            file.write(np.ascontiguousarray(pixels).data)
        return list(pixels.shape)

    def picture(path: Path, to: Path) -> dict[str, Any]:
        return {"shape": dumped(read_picture(path).pixels, to)}

    def clip(path: Path, to: Path, fps: float | None, max_seconds: float, size: list[int] | None) -> dict[str, Any]:
        read = read_clip(path, fps=fps, max_seconds=max_seconds, size=(size[0], size[1]) if size else None)
        return {"shape": dumped(read.frames, to), "fps": read.fps}

    def sound(path: Path, to: Path, max_seconds: float) -> dict[str, Any]:
        return {"seconds": write_sound(path, to, max_seconds)}

    def any_kind(path: Path) -> dict[str, Any]:
        found = probe_any(path)
        return asdict(found) if isinstance(found, ProbedMedia) else {"sound": asdict(found)}

    return {
        "estimate_pixels": lambda path: {"pixels": pixels_to_decode(path)},
        "probe_any": any_kind,
        "read_picture": picture,
        "read_clip": clip,
        "write_sound": sound,
    }


def answer_to(request: dict[str, Any], handlers: Mapping[str, Operation], files: Sequence[int]) -> dict[str, Any]:
    """Run an operation on a file; returns the answer.

    Args:
        files: descriptors of the file and, for some operations, of the result.
    """
    from zoetrope.serving.media.errors import MediaError

    name = str(request["name"])
    try:
        paths = [OpenFile.of(descriptor, name) for descriptor in files]
        return {"result": handlers[request["operation"]](*paths, **request["options"])}
    except MediaError as error:
        return {"refused": str(error)}
    except NotWritten as error:
        return {"failed": "write", "errno": error.args[0]}
    except MemoryError:
        return {"failed": "memory"}
    except Exception as error:  # decoders may raise anything
        return {"failed": type(error).__name__}


def main(handlers: Callable[[], dict[str, Operation]] = operations) -> None:
    """Serve until the socket closes. Arguments: the parent's process id, the maximum memory of a request in bytes, and
    "unsafe" to decode files however weak the confinement is."""
    parent, memory_bytes, unsafe = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "unsafe"
    die_with(parent)
    channel = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as null:
        os.dup2(null.fileno(), 0)
    known = handlers()
    warm_up(known)
    confinement = Confinement()
    confinement.enter(parent, memory_bytes)
    channel.send(json.dumps({"layers": [asdict(layer) for layer in confinement.layers]}).encode())
    if unsafe or not lacking(confinement.layers):
        with suppress(ConnectionError):
            idle: set[int] = set()
            while True:
                while len(idle) < STANDING_BY:
                    idle.add(_stand_by(confinement, known, channel))
                child, status = os.wait()
                idle.discard(child)
                channel.send(json.dumps({"child": child, "status": status}).encode())


def _stand_by(confinement: Confinement, handlers: Mapping[str, Operation], channel: socket.socket) -> int:
    """Fork a child that waits for a request; returns its process id."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            confinement.stand_by(parent, channel.fileno())
            _answer(confinement, handlers, channel)
        finally:
            os._exit(1)
    return child


def _answer(confinement: Confinement, handlers: Mapping[str, Operation], channel: socket.socket) -> NoReturn:
    """Handle one request and exit."""
    message, (answers, *files), *_ = socket.recv_fds(channel, MESSAGE_BYTES, DESCRIPTORS)
    channel.close()
    os.write(answers, CHILD.pack(os.getpid()))
    request = json.loads(message)
    confinement.enter_request(ResourceLimits(**request["limits"]))
    answer = json.dumps(answer_to(request, handlers, files)).encode()
    while answer:
        answer = answer[os.write(answers, answer) :]
    os._exit(0)


def warm_up(handlers: Mapping[str, Operation]) -> None:
    """Load everything that decoding needs while files can still be opened, in memory that children share."""
    for write in (_write_picture, _write_clip):
        with open(os.memfd_create("sample"), "w+b") as file:
            write(file)
            file.flush()
            handlers["probe_any"](OpenFile.of(file.fileno(), "sample"))
    gc.collect()
    gc.freeze()


def _write_picture(file: BinaryIO) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16)).save(file, "PNG")


def _write_clip(file: BinaryIO) -> None:
    """Write a clip with sound."""
    import av
    import numpy as np
    from av.audio.stream import AudioStream
    from av.video.stream import VideoStream

    with av.open(file, "w", format="mp4") as output:
        video, sound = output.add_stream("mpeg4", rate=8), output.add_stream("aac", rate=48_000, layout="mono")
        assert isinstance(video, VideoStream)
        assert isinstance(sound, AudioStream)
        video.width, video.height, video.pix_fmt = 16, 16, "yuv420p"
        output.mux(video.encode(av.VideoFrame(16, 16, "yuv420p")))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1_024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 48_000
        output.mux(sound.encode(samples))
        output.mux([*video.encode(None), *sound.encode(None)])


if __name__ == "__main__":
    main()

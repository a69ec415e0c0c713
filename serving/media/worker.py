"""The process that looks into files from outside; `serving.media.sandbox` starts it.

Requests come on standard input and answers leave on standard output, each a JSON object behind its length in four bytes
(big-endian). The process ends with its input.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final

from serving.media.confine import confine, limit_request

LENGTH: Final = struct.Struct(">I")


class NotWritten(Exception):
    """The result cannot be written; holds the errno."""


def read_message(stream: BinaryIO) -> dict[str, Any] | None:
    """None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    message: dict[str, Any] = json.loads(stream.read(LENGTH.unpack(head)[0]))
    return message


def write_message(stream: BinaryIO, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    stream.write(LENGTH.pack(len(body)) + body)
    stream.flush()


def operations() -> dict[str, Callable[..., dict[str, Any]]]:
    """By name."""
    import numpy as np
    from numpy.typing import NDArray

    from serving.media.clips import read_clip
    from serving.media.info import MediaInfo, probe, probe_any
    from serving.media.pictures import read_picture
    from serving.media.sound import probe_sound, write_sound

    def dumped(pixels: NDArray[np.uint8], to: str) -> list[int]:
        try:
            with Path(to).open("wb") as file:
                file.write(np.ascontiguousarray(pixels).data)
        except OSError as error:  # nothing that the file from outside can be blamed for
            raise NotWritten(error.errno) from error
        return list(pixels.shape)

    def picture(path: Path, to: str) -> dict[str, Any]:
        return {"shape": dumped(read_picture(path).pixels, to)}

    def clip(path: Path, to: str, fps: float | None, max_seconds: float, size: list[int] | None) -> dict[str, Any]:
        read = read_clip(path, fps=fps, max_seconds=max_seconds, size=(size[0], size[1]) if size else None)
        return {"shape": dumped(read.frames, to), "fps": read.fps}

    def sound(path: Path, to: str, max_seconds: float) -> dict[str, Any]:
        return {"seconds": write_sound(path, Path(to), max_seconds)}

    def any_kind(path: Path) -> dict[str, Any]:
        found = probe_any(path)
        return asdict(found) if isinstance(found, MediaInfo) else {"sound": asdict(found)}

    return {
        "probe_any": any_kind,
        "probe": lambda path: asdict(probe(path)),
        "probe_sound": lambda path, max_seconds: asdict(probe_sound(path, max_seconds)),
        "read_picture": picture,
        "read_clip": clip,
        "write_sound": sound,
    }


def main(parent: int, hard_memory_bytes: int) -> None:
    """Answer until the input ends."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # libraries that talk must not be taken for answers
        os.dup2(nothing, descriptor)
    missing = confine(parent, hard_memory_bytes)
    handlers = operations()

    from serving.media.errors import MediaError

    write_message(answers, {"ready": True, "missing": missing})
    while (request := read_message(requests)) is not None:
        limit_request(**request["limits"])
        try:
            handler = handlers[request["operation"]]
            answer: dict[str, Any] = {"result": handler(Path(request["path"]), **request["options"])}
        except MediaError as error:
            answer = {"refused": str(error)}
        except NotWritten as error:
            answer = {"failed": "write", "errno": error.args[0]}
        except MemoryError:
            answer = {"failed": "memory"}
        except Exception as error:  # a decoder's surprise is an answer, too
            answer = {"failed": type(error).__name__}
        write_message(answers, answer)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

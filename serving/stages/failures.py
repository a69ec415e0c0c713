"""What a stage raises: a code and one line, which arrive in the router whatever went wrong."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from ray.exceptions import RayError

from model.errors import Picklable
from model.tasks import InvalidRequest, VideoSpec
from serving.artifacts import ArtifactMissing, ArtifactUnavailable
from serving.gateway.logs import describe
from serving.media import MediaError
from serving.moderation import CheckUnavailable

T = TypeVar("T")
UNAVAILABLE = "UNAVAILABLE"
MAX_REASON_CHARS = 300
PATH = re.compile(r"(?<![\w/.:])(?:[A-Za-z]:)?/[^\s'\":;,()\[\]<>]+")  # absolute; no part of an address
log = logging.getLogger("zoetrope.stages")


class StageError(Picklable):
    """A stage cannot do its work on a job; the message is fit for the client.

    Attributes:
        code: a google.rpc.Code name. UNAVAILABLE: what the stage needs is away and may come back.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class OutputRefused(Exception):
    """The check of videos refused this one; the message is its note."""


class Told:
    """A context that raises a `StageError` for whatever is raised inside, whether or not that can be pickled.

    What Ray says of lost processes and objects passes: it is no fault of the job's.
    """

    def __init__(self, spec: VideoSpec) -> None:
        self._spec = spec

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, (RayError, StageError)):
            raise stage_error(error, self._spec) from None


async def apart(spec: VideoSpec, work: Callable[..., T], *arguments: Any) -> T:
    """``work(*arguments)`` in a thread; what it raises becomes a `StageError` there, as an exception such as
    StopIteration would never come out of the thread."""

    def run() -> T:
        try:
            return work(*arguments)
        except (RayError, StageError):
            raise
        except BaseException as error:  # also one that would end the process: this is a thread of its own
            raise stage_error(error, spec) from None

    return await asyncio.to_thread(run)


def stage_error(error: BaseException, spec: VideoSpec) -> StageError:
    """What the router is told of an exception. One that nobody foresaw goes to the log of the stage as well."""
    match error:
        case InvalidRequest() | MediaError():
            return StageError("INVALID_ARGUMENT", presentable(str(error), spec))
        case OutputRefused():
            return StageError("PERMISSION_DENIED", f"the video was refused: {error}")
        case ArtifactUnavailable() | CheckUnavailable():
            return StageError(UNAVAILABLE, presentable(str(error), spec))
        case ArtifactMissing():
            return StageError("FAILED_PRECONDITION", "a file of the job is gone")
    log.error("a stage failed:\n%s", describe(error))
    return StageError("INTERNAL", reason(error, spec))


def reason(error: BaseException, spec: VideoSpec) -> str:
    """The type of an exception and its message, `presentable`."""
    try:
        text = presentable(str(error), spec)[:MAX_REASON_CHARS]
    except Exception:  # its class has a __str__ that fails
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def presentable(text: str, spec: VideoSpec) -> str:
    """One line without what the client wrote and without paths of this machine."""
    text = " ".join(text.split())
    for secret in (" ".join(spec.prompt.split()), " ".join(spec.negative_prompt.split())):
        for written in {secret, repr(secret)[1:-1]} - {""}:
            text = re.sub(rf"(?<!\w){re.escape(written)}(?!\w)", "...", text)
    return PATH.sub("...", text)

"""What came of a failure, whatever it is: the one place that says what is done about it and what a client is told.

A stage raises a `StageError` for everything, so that the router hears of it whether or not Python can pickle it. What
Ray raises for lost processes and objects is no stage's to say and told apart by the router, by the same function.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Any, TypeVar

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from cluster.losses import AWAY, DEATHS, GONE, original
from model.errors import Picklable, device_lost
from model.tasks import InvalidRequest, VideoSpec
from serving.artifacts import ArtifactMissing, ArtifactUnavailable
from serving.gateway.logs import describe
from serving.jobs.errors import StoreError, StoreRefused
from serving.media import MediaError
from serving.media.errors import NotWritable, TookTooLong
from serving.media.worker_process import RequestKilled, WorkerLost
from serving.moderation import CheckUnavailable
from serving.stages.wording import presentable, reason

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT)
# Of the machine, its disks and its network, and of nothing that a job could be at fault for.
MACHINE = {
    *FULL, errno.EIO, errno.EROFS, errno.ESTALE, errno.EREMOTEIO, errno.ENODEV, errno.ENXIO, errno.EBUSY,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN,
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT,
    errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL,
}  # fmt: skip
LOST = "what was lost with a process that died, which is made again"
DISK = "disk space: the disk is full"
log = logging.getLogger("zoetrope.stages")


class Remedy(StrEnum):
    """What is done about a failure."""

    END = "end"  # the job fails: it or our code is at fault, and it would happen again
    WAIT = "wait"  # and ask again: something that the stage needs is away
    REMAKE = "remake"  # what an earlier stage made is gone with a process: from the start, which snapshots shorten
    ALONE = "alone"  # the process died, or ran out of memory or time, with the job in it: again, with nobody else there


class StageError(Picklable):
    """A stage cannot do its work on a job; the message is fit for the client. Of a failure that passes, it says what is
    waited for.

    Attributes:
        code: a google.rpc.Code name.
    """

    def __init__(self, code: str, message: str, remedy: Remedy = Remedy.END) -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy


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
            raise told(error, self._spec) from None


async def apart(spec: VideoSpec, work: Callable[..., T], *arguments: Any) -> T:
    """``work(*arguments)`` in a thread; what it raises becomes a `StageError` there, as an exception such as
    StopIteration would never come out of the thread. Where the process has lost its device, it ends: another can take
    its place."""

    def run() -> T:
        try:
            return work(*arguments)
        except (RayError, StageError):
            raise
        except BaseException as error:  # also one that would end the process: this is a thread of its own
            if device_lost(error):
                log.critical("the device is lost, this process ends:\n%s", describe(error))
                os._exit(1)
            raise told(error, spec) from None

    return await asyncio.to_thread(run)


def told(error: BaseException, spec: VideoSpec) -> StageError:
    """What is done about an exception, as it was raised in a stage or as Ray delivers it, and what is said of it. One
    that nobody foresaw goes to the log as well."""
    inner = original(error)
    if isinstance(inner, StageError):
        return inner
    if isinstance(error, RayTaskError) and isinstance(inner, DEATHS):  # of another process, whose work a stage needed
        return StageError("UNAVAILABLE", LOST, Remedy.REMAKE)
    match inner:
        case InvalidRequest():
            slow = isinstance(inner.__cause__, TookTooLong)  # the machine may have been busy
            return StageError("INVALID_ARGUMENT", presentable(str(inner), spec), Remedy.ALONE if slow else Remedy.END)
        case OutputRefused():
            return StageError("PERMISSION_DENIED", presentable(f"the video was refused: {inner}", spec))
        case ArtifactMissing():
            return StageError("FAILED_PRECONDITION", "a file of the job is gone")
        case MemoryError():
            return StageError("INTERNAL", reason(inner, spec), Remedy.ALONE)
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(inner).__mro__) and not isinstance(inner, RayError):
        return StageError("INTERNAL", reason(inner, spec), Remedy.ALONE)  # torch's, which need not be there
    if isinstance(inner, (*DEATHS, RequestKilled)):
        return StageError("UNAVAILABLE", "a process that died to start again", Remedy.ALONE)
    if isinstance(inner, GONE):
        return StageError("UNAVAILABLE", LOST, Remedy.REMAKE)
    if (awaited := _awaited(inner)) is not None:
        log.warning("a stage waits for %s: %s", awaited, describe(inner))
        return StageError("UNAVAILABLE", awaited, Remedy.WAIT)
    if isinstance(inner, MediaError) and not isinstance(inner, NotWritable):  # files from outside: InvalidRequest
        return StageError("INTERNAL", presentable(str(inner), spec) or "the result is not what it should be")
    log.error("a stage failed:\n%s", describe(inner))
    return StageError("INTERNAL", reason(inner, spec))


def _awaited(error: BaseException) -> str | None:
    """What has to come back before work goes on after this exception; None: it is not for want of anything."""
    match error:
        case StoreRefused():
            return None
        case ArtifactUnavailable():
            full = getattr(error.__cause__, "errno", None) in FULL
            return f"storage: {'its disk is full' if full else 'the artifact store cannot be reached'}"
        case StoreError():
            return "storage: the job database cannot be reached"
        case CheckUnavailable():
            return "the check of videos: it does not answer"
        case WorkerLost():
            return "the processes that decode files: they do not start"
        case RayServeException():
            return "a process to start again"
    if isinstance(error, AWAY):
        return "this machine: its object store is full or does not answer"
    if isinstance(error, (ConnectionError, TimeoutError)):
        return "this machine: a connection broke"
    code = getattr(error, "errno", None) if isinstance(error, (OSError, NotWritable)) else None
    if code not in MACHINE:
        return None
    return DISK if code in FULL else f"this machine: {os.strerror(code).lower()}"

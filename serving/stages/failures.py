"""Classify failures: the one place that decides what is done about one and what the client is told.

A stage raises a `StageError` for every failure, so that the router gets it even if Python cannot pickle the original.
The router classifies Ray's errors for lost processes and objects by the same function.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Literal, TypeVar, get_args

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from zoetrope.cluster.protocol.losses import AWAY, DEATHS, GONE, original
from zoetrope.cluster.telemetry.catalogue import start_at_zero
from zoetrope.cluster.telemetry.metrics import STAGE_FAILURES
from zoetrope.cluster.telemetry.traces import MODEL, TASK, Attributes, failed, span
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import InvalidRequest
from zoetrope.model.runtime.errors import Picklable, device_lost
from zoetrope.serving.config.logs import describe
from zoetrope.serving.jobs.db.errors import StoreError, StoreRefused
from zoetrope.serving.media import MediaError
from zoetrope.serving.media.errors import NotWritable, TookTooLong
from zoetrope.serving.media.sandbox.worker_process import RequestKilled, WorkerLost
from zoetrope.serving.outbound.hooks import CheckUnavailable
from zoetrope.serving.stages.messages import presentable, reason
from zoetrope.serving.storage.store import ArtifactMissing, ArtifactUnavailable

T = TypeVar("T")
# Names of google.rpc.Code.
FailureCode = Literal["INVALID_ARGUMENT", "PERMISSION_DENIED", "FAILED_PRECONDITION", "INTERNAL", "UNAVAILABLE"]
FAILURE_CODES: tuple[FailureCode, ...] = get_args(FailureCode)
start_at_zero(STAGE_FAILURES, ("conditioning", "decoding"), FAILURE_CODES)
FULL = (errno.ENOSPC, errno.EDQUOT)
# Faults of the machine, its disks and its network, which no job can cause.
MACHINE = {
    *FULL, errno.EIO, errno.EROFS, errno.ESTALE, errno.EREMOTEIO, errno.ENODEV, errno.ENXIO, errno.EBUSY,
    errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN,
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT,
    errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL,
}  # fmt: skip
LOST = "data that was lost with a process and is being recreated"
DISK = "disk space: the disk is full"
log = logging.getLogger("zoetrope.stages")


class Remedy(StrEnum):
    """What to do about a failure."""

    END = "end"  # fail the job: it or our code is at fault, and it would happen again
    WAIT = "wait"  # and retry: something that the stage needs is unavailable
    REMAKE = "remake"  # an earlier stage's result was lost with a process: start over, from snapshots if there are any
    ALONE = "alone"  # the process died, or ran out of memory or time, with the job in it: retry without other jobs


class StageError(Picklable):
    """A stage failed on a job. The message is presentable to the client; for a transient failure it names what the job
    is waiting for."""

    def __init__(self, code: FailureCode, message: str, remedy: Remedy = Remedy.END) -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy


class OutputRefused(Exception):
    """The output check refused this video; the message is its note."""


@contextmanager
def stage_errors(spec: VideoSpec) -> Iterator[None]:
    """Turn exceptions into a `StageError`, except Ray's for lost processes and objects, which no job causes."""
    try:
        yield
    except (RayError, StageError):
        raise
    except Exception as error:
        raise classify(error, spec) from None


@contextmanager
def staged(
    stage: Literal["conditioning", "decoding"], spec: VideoSpec, trace: str, attributes: Attributes | None = None
) -> Iterator[None]:
    """Make a stage's work on a job a span of the job's trace, and count it if it fails."""
    with span(stage, trace, attributes={MODEL: spec.model, TASK: spec.task.kind, **(attributes or {})}) as made:
        try:
            yield
        except StageError as error:
            STAGE_FAILURES.labels(stage, error.code).inc()
            failed(made, error.code)
            raise


async def in_thread(spec: VideoSpec, work: Callable[..., T], *arguments: Any) -> T:
    """Run ``work(*arguments)`` in a thread; its exceptions become a `StageError` there, because some, such as
    StopIteration, never leave the thread. If the process has lost its device, it exits to be replaced."""

    def run() -> T:
        try:
            return work(*arguments)
        except (RayError, StageError):
            raise
        except BaseException as error:  # including SystemExit, which must not end this thread silently
            if device_lost(error):
                log.critical("the device is lost, exiting:\n%s", describe(error))
                os._exit(1)
            raise classify(error, spec) from None

    return await asyncio.to_thread(run)


def classify(error: BaseException, spec: VideoSpec) -> StageError:
    """Decide what to do about an exception, raised in a stage or delivered by Ray, and what to tell the client.
    Unexpected exceptions are also logged."""
    inner = original(error)
    if isinstance(inner, StageError):
        return inner
    if isinstance(error, RayTaskError) and isinstance(inner, DEATHS):  # another process died whose work a stage needed
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
        return StageError("INTERNAL", reason(inner, spec), Remedy.ALONE)  # torch's; torch may not be installed
    if isinstance(inner, (*DEATHS, RequestKilled)):
        return StageError("UNAVAILABLE", "a process that died to restart", Remedy.ALONE)
    if isinstance(inner, GONE):
        return StageError("UNAVAILABLE", LOST, Remedy.REMAKE)
    if (awaited := _awaited(inner)) is not None:
        log.warning("a stage waits for %s: %s", awaited, describe(inner))
        return StageError("UNAVAILABLE", awaited, Remedy.WAIT)
    if isinstance(inner, MediaError) and not isinstance(inner, NotWritable):  # bad input files are InvalidRequest
        return StageError("INTERNAL", presentable(str(inner), spec) or "the result failed verification")
    log.error("a stage failed:\n%s", describe(inner))
    return StageError("INTERNAL", reason(inner, spec))


def _awaited(error: BaseException) -> str | None:
    """Name what must become available again before a retry can succeed; None if the exception is not transient."""
    match error:
        case StoreRefused():
            return None
        case ArtifactUnavailable():
            full = getattr(error.__cause__, "errno", None) in FULL
            return f"storage: {'its disk is full' if full else 'the artifact store cannot be reached'}"
        case StoreError():
            return "storage: the job database cannot be reached"
        case CheckUnavailable():
            return "the output check: it does not answer"
        case WorkerLost():
            return "media workers: they do not start"
        case RayServeException():
            return "a process to restart"
    if isinstance(error, AWAY):
        return "this machine: its object store is full or does not answer"
    if isinstance(error, (ConnectionError, TimeoutError)):
        return "this machine: a connection broke"
    code = getattr(error, "errno", None) if isinstance(error, (OSError, NotWritable)) else None
    if code not in MACHINE:
        return None
    return DISK if code in FULL else f"this machine: {os.strerror(code).lower()}"

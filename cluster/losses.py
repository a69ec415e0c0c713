"""What Ray raises: a process, a node or an object that was lost, or an exception that somebody's code raised."""

from __future__ import annotations

from ray import exceptions
from ray.exceptions import RayTaskError

# What may go well another time, because nobody's code was at fault. All else would happen again, also what Ray makes of
# objects and exceptions that cannot be pickled (RaySystemError, UnserializableException, a bare RayError).
LOSSES = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.OutOfMemoryError,  # of the machine: its raylet killed a worker
    exceptions.OutOfDiskError,
    exceptions.ObjectStoreFullError,
    exceptions.ObjectLostError,
    exceptions.PlasmaObjectNotAvailable,
    exceptions.GetTimeoutError,
    exceptions.RpcError,
    exceptions.TaskCancelledError,
    exceptions.AsyncioActorExit,
    exceptions.TaskPlacementGroupRemoved,
    exceptions.ActorPlacementGroupRemoved,
)


def original(error: BaseException) -> BaseException:
    """The exception as it was raised in the other process, out of the one that Ray wraps it in."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error

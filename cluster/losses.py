"""What Ray raises: a process, a node or an object that was lost, or an exception that somebody's code raised."""

from __future__ import annotations

from ray import exceptions
from ray.exceptions import RayTaskError

# A process died, or cannot be reached: it may have done what it was asked for, or not.
DEATHS = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.OutOfMemoryError,  # of the machine: its raylet killed a worker
    exceptions.AsyncioActorExit,
)
# What was made earlier is gone, with the process or the node that kept it.
GONE = (exceptions.ObjectLostError, exceptions.PlasmaObjectNotAvailable)
# May go well another time.
AWAY = (
    exceptions.OutOfDiskError,
    exceptions.ObjectStoreFullError,
    exceptions.GetTimeoutError,
    exceptions.RpcError,
    exceptions.TaskCancelledError,
    exceptions.PendingCallsLimitExceeded,
    exceptions.TaskPlacementGroupRemoved,
    exceptions.ActorPlacementGroupRemoved,
)
# Nobody's code was at fault. All else would happen again, also what Ray makes of objects and exceptions that cannot be
# pickled (RaySystemError, UnserializableException, a bare RayError).
LOSSES = (*DEATHS, *GONE, *AWAY)


def original(error: BaseException) -> BaseException:
    """The exception as it was raised in the other process, out of the one that Ray wraps it in."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error

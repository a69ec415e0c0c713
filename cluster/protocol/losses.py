"""Tells apart what Ray raises: lost processes, nodes and objects, and exceptions from our own code."""

from __future__ import annotations

from ray import exceptions
from ray.exceptions import RayTaskError

# A process died or cannot be reached; it may or may not have done what it was asked to do.
DEATHS = (
    exceptions.RayActorError,
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.LocalRayletDiedError,
    exceptions.OutOfMemoryError,  # of the machine: its raylet killed a worker
    exceptions.AsyncioActorExit,
)
# An earlier result is gone, with the process or the node that kept it.
GONE = (exceptions.ObjectLostError, exceptions.PlasmaObjectNotAvailable)
# May succeed another time.
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
# No code was at fault. Everything else would happen again, including what Ray raises for objects and exceptions that
# cannot be pickled (RaySystemError, UnserializableException, a bare RayError).
LOSSES = (*DEATHS, *GONE, *AWAY)


def original(error: BaseException) -> BaseException:
    """Return the exception as it was raised in the other process, without Ray's wrapping."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error

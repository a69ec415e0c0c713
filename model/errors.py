"""Exceptions that are raised in one process and read in another."""

from __future__ import annotations

from typing import Any


class Picklable(Exception):
    """An exception that arrives as it left, whatever its ``__init__`` takes.

    Python pickles an exception as its class and its ``args``, which are those of ``Exception.__init__``: a class whose
    own ``__init__`` takes others fails when it is read, and what Ray then raises in its place says nothing.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[Picklable], args: tuple[Any, ...], attributes: dict[str, Any]) -> Picklable:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def device_lost(error: BaseException) -> bool:
    """Whether an accelerator failed in a way after which nothing more can be computed in this process: an illegal
    address, a memory fault, a device that is gone. Its memory being full is no such failure."""
    names = {kind.__name__ for kind in type(error).__mro__}  # torch need not be there
    return "AcceleratorError" in names or (isinstance(error, RuntimeError) and "CUDA error:" in str(error))

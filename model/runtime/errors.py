"""Exceptions that are raised in one process and read in another."""

from __future__ import annotations

from typing import Any


class Picklable(Exception):
    """An exception that survives pickling, whatever its ``__init__`` takes.

    Python pickles an exception as its class and its ``args``, those of ``Exception.__init__``: unpickling a class whose
    ``__init__`` takes other arguments fails, and what Ray then raises in its place says nothing.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[Picklable], args: tuple[Any, ...], attributes: dict[str, Any]) -> Picklable:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def device_lost(error: BaseException) -> bool:
    """Tell whether an accelerator failed so that this process can compute nothing more: an illegal address, a memory
    fault, a lost device. Running out of memory is not such a failure."""
    names = {kind.__name__ for kind in type(error).__mro__}  # torch may not be installed
    return "AcceleratorError" in names or (isinstance(error, RuntimeError) and "CUDA error:" in str(error))

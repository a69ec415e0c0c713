"""Small tables made on the host, on their way to a device; and who else needs those that are kept there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar, cast

import torch

P = ParamSpec("P")
T = TypeVar("T")
_holding: ContextVar[list[object] | None] = ContextVar("tables_to_hold", default=None)


def upload(table: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small tensor from the host to ``device``, without waiting for work that runs there.

    A copy from pageable memory would make the host wait for all launches before it. This one comes from pinned memory
    and takes its turn in the current stream.

    Raises:
        RuntimeError: a CUDA graph is being captured, which would copy from this memory of the host at every replay.
    """
    if device.type != "cuda":
        return table.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(f"a table of shape {tuple(table.shape)} is made on the host while a graph is captured")
    return table.pin_memory().to(device, non_blocking=True)


def upload_numbers(rows: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Return the numbers as int32 on ``device``; callers cache the result by what it was made of."""
    return upload(torch.tensor(rows, dtype=torch.int32), device)


def keep_tables(make: Callable[P, T]) -> Callable[P, T]:
    """Keep the latest 64 results of a function that makes tables on a device, by its arguments.

    A captured graph reads a table where it lay when it was captured, long after it may have been dropped here: see
    `held_tables`.
    """
    kept = cast("Callable[P, T]", lru_cache(maxsize=64)(make))

    @wraps(make)
    def found(*args: P.args, **kwargs: P.kwargs) -> T:
        table = kept(*args, **kwargs)
        holding = _holding.get()
        if holding is not None:
            holding.append(table)
        return table

    return found


@contextmanager
def held_tables() -> Iterator[list[object]]:
    """Collect the tables that are used until the end of the block, so that the caller can hold them."""
    holding: list[object] = []
    token = _holding.set(holding)
    try:
        yield holding
    finally:
        _holding.reset(token)

"""Read plain tensors of safetensors files by large reads."""

from __future__ import annotations

import threading

import torch

from zoetrope.model.inspection.headers import Header

Rows = slice | tuple[slice, ...] | None


KEPT_BYTES = 256 << 20  # by each thread


class Scratch(threading.local):
    """Memory that each thread reads into again and again: fresh memory costs more than the reading."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> torch.Tensor:
        """Return so many bytes, which stay as they are until the next call in this thread; too many are not kept."""
        if size > KEPT_BYTES:
            return torch.empty(size, dtype=torch.uint8)
        if self._bytes.numel() < size:
            self._bytes = torch.empty(size, dtype=torch.uint8)
        return self._bytes[:size]


def read_span(header: Header, dtype: torch.dtype, rows: Rows = None, scratch: Scratch | None = None) -> torch.Tensor:
    """Read a tensor of this type, or only some rows of it.

    Args:
        scratch: where to; None: into memory of its own.

    Raises:
        OSError: the file cannot be read, or ends before the tensor does.
    """
    shape, start, end = header.shape, header.start, header.end
    if isinstance(rows, slice) and shape:
        first, last, step = rows.indices(shape[0])
        if step != 1:
            raise ValueError(f"rows go by {step}: they must lie side by side")
        size = (end - start) // max(1, shape[0])
        shape, start, end = (max(0, last - first), *shape[1:]), start + first * size, start + max(first, last) * size
    buffer = torch.empty(end - start, dtype=torch.uint8) if scratch is None else scratch.take(end - start)
    if buffer.numel():
        with header.path.open("rb", buffering=0) as file:
            file.seek(start)
            view, done = memoryview(buffer.numpy().data), 0
            while done < len(view):
                if not (size := file.readinto(view[done:])):
                    raise OSError(f"it ends within {header.name}")
                done += size
    return buffer.view(dtype).reshape(shape)

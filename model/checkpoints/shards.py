"""Write safetensors files piece by piece, so that no tensor has to be in memory as a whole.

A file (format in safetensors' README) is eight bytes of header length, a JSON header with dtype, shape and offsets of
every tensor, then their bytes. All shapes are known in advance, so the header can be written first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from zoetrope.model.inspection.files import DIFFUSERS_STEM

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
MAX_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written; ``pieces`` yields it in parts along its first dimension, in order."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterator[torch.Tensor]]

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize


def write_shards(
    directory: Path,
    tensors: Sequence[PlannedTensor],
    *,
    max_bytes: int = MAX_SHARD_BYTES,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write files with diffusers' names: one, or numbered ones with an index above ``max_bytes``.

    Args:
        on_progress: called with (bytes written, bytes in total).

    Raises:
        ValueError: the pieces of a tensor do not add up to its shape.
    """
    groups: list[list[PlannedTensor]] = [[]]
    for tensor in tensors:
        if groups[-1] and sum(t.bytes for t in groups[-1]) + tensor.bytes > max_bytes:
            groups.append([])
        groups[-1].append(tensor)
    total = sum(tensor.bytes for tensor in tensors)
    done = 0
    paths: list[Path] = []
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        suffix = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
        path = directory / f"{DIFFUSERS_STEM}{suffix}.safetensors"
        for written in _write_file(path, group):
            done += written
            on_progress(done, total)
        paths.append(path)
        weight_map |= {tensor.name: path.name for tensor in group}
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / f"{DIFFUSERS_STEM}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return paths


def _write_file(path: Path, tensors: Sequence[PlannedTensor]) -> Iterator[int]:
    """Write one file; yield the size of each piece in bytes once it is written."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        place = [offset, offset + tensor.bytes]
        header[tensor.name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        offset += tensor.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            written = 0
            for piece in tensor.pieces():
                data = piece.to(tensor.dtype).contiguous().view(-1).view(torch.uint8).numpy().data
                file.write(data)
                written += len(data)
                yield len(data)
            if written != tensor.bytes:
                raise ValueError(f"{tensor.name}: {written} bytes for shape {tensor.shape}, expected {tensor.bytes}")

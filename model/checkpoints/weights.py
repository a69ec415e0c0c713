"""Load weights from disk into a network one tensor at a time: memory-mapped, checked, straight to device and dtype."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.keys import check_tensors
from zoetrope.model.network.precision import dtype_of

if TYPE_CHECKING:
    from zoetrope.model.network.quantized import QuantizedWeight

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}

OnProgress = Callable[[int, int], None]
Rows = slice | tuple[slice, ...] | None


def ignore_progress(done: int, total: int) -> None:
    """Do nothing: for callers that show no progress."""


def ignore_placed(name: str) -> None:
    """Do nothing: for callers to whom it does not matter when a tensor has its place."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, or one to be drawn, of which only name and shape have been read."""

    path: Path
    name: str  # in the network
    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None: not a supported floating-point type
    fetch: Callable[[Rows], torch.Tensor]

    def read(self, rows: Rows = None) -> torch.Tensor:
        """Read it onto the CPU in the file's dtype, or only ``rows`` along the first dimensions. A drawn tensor is on
        its device at once, in its final dtype.

        Raises:
            ModelError: the file ends before the tensor does.
        """
        with _reading(self.path):
            return self.fetch(rows)


@contextmanager
def open_weights(paths: Sequence[Path], rename: Callable[[str], str] = str) -> Iterator[list[StoredTensor]]:
    """List all tensors of safetensors, ``.pth`` or ``.bin`` files, reading only the headers.

    Args:
        rename: maps names in the files to those of the network.

    Raises:
        ModelError: a file is missing, truncated or in another format.
    """
    tensors: list[StoredTensor] = []
    open_files: list[Any] = []
    try:
        for path in paths:
            with _reading(path):
                if path.suffix == ".safetensors":
                    with _safetensors() as safe_open:
                        file = safe_open(path, framework="pt")
                        open_files.append(file)
                        names: list[str] = list(file.keys())
                        tensors += [_of_safetensors(path, file, name, rename(name)) for name in names]
                else:
                    state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
                    tensors += list(_of_pickle(path, state, rename))
        yield tensors
    finally:
        for file in open_files:
            file.__exit__(None, None, None)


def load_into(
    network: nn.Module,
    tensors: Sequence[StoredTensor],
    where: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    float32_modules: Sequence[str] = (),
    tied: Mapping[str, str] | None = None,
    owned: Callable[[str], slice | None] = lambda name: None,
    quantized: Mapping[str, QuantizedWeight] | None = None,
    on_progress: OnProgress = ignore_progress,
    on_placed: Callable[[str], None] = ignore_placed,
) -> None:
    """Fill a network that was made on the meta device.

    Names, shapes and types are compared before anything is read, so that a wrong file is refused at once. Tensors
    without a place in the network are ignored where `model.inspection.keys` allows it; `model.catalog.checks` has
    warned of them. At most one tensor is in flight.

    Args:
        where: the file or directory to name in errors.
        float32_modules: tensors with one of these as a part of their name stay in float32, as in diffusers.
        tied: names that may be absent, with the name of the tensor that they share.
        owned: returns the rows of a tensor that this rank holds, None for all; the others are never read.
        quantized: weights that are not placed in the network but given to these, in the dtype of the file.
        on_progress: called with (elements done, elements in total).
        on_placed: called with the name of each tensor once the network holds it; may take it away.

    Raises:
        ModelError: a tensor is missing, unknown, of another shape, quantised, or holds NaN or infinity.
    """
    quantized = quantized or {}
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    wanted |= {name: weight.shape for name, weight in quantized.items()}
    stored = {tensor.name: tensor for tensor in tensors}
    for name, same_as in (tied or {}).items():
        if name not in stored and same_as in stored:
            stored[name] = stored[same_as]
    check_tensors(wanted, stored, where)
    for name in wanted:
        if stored[name].dtype not in DTYPES.values():
            raise ModelError(f"{stored[name].path}: {name} is not floating point: quantised weights are not supported")
    done, total = 0, sum(torch.Size(shape).numel() for shape in wanted.values())
    placed: dict[str, torch.Tensor] = {}
    for name, shape in wanted.items():
        same_as = (tied or {}).get(name, "")
        if same_as in placed:
            value = placed[same_as]
        else:
            value = stored[name].read(owned(name)).to(device)
            if name not in quantized:
                value = value.to(dtype_of(name, dtype, float32_modules))
            check_finite(value, stored[name])
        if name in (tied or {}).values():
            placed[name] = value
        if name in quantized:
            quantized[name].take(value)
        else:
            _place(network, name, value)
        on_placed(name)
        done += torch.Size(shape).numel()
        on_progress(done, total)


def owned_experts(rank: int, ranks: int, num_experts: int, stacks: re.Pattern[str]) -> Callable[[str], slice | None]:
    """Return ``owned`` for `load_into`: each rank of a gang holds an equal part of every expert stack.

    Args:
        stacks: `model.network.protocol.Network.expert_stacks`.

    Raises:
        ValueError: the ranks do not divide the experts.
    """
    if num_experts % ranks:
        raise ValueError(f"{num_experts} experts cannot be split evenly over {ranks} ranks")
    each = num_experts // ranks
    rows = slice(rank * each, (rank + 1) * each)
    return lambda name: rows if stacks.search(name) else None


def check_finite(value: torch.Tensor, tensor: StoredTensor) -> None:
    """Raise ModelError if ``value``, read from ``tensor``, holds NaN or infinity."""
    if value.numel() and not all(torch.isfinite(x) for x in torch.aminmax(value)):
        raise ModelError(f"{tensor.path}: {tensor.name} holds NaN or infinity")


def check_all_finite(paths: Sequence[Path]) -> None:
    """Check files that a library loads: raise ModelError if one cannot be read, or a tensor holds NaN or infinity."""
    with open_weights(paths) as tensors:
        for tensor in tensors:
            if tensor.dtype is not None and tensor.dtype.is_floating_point:
                check_finite(tensor.read(), tensor)


def _place(network: nn.Module, name: str, value: torch.Tensor) -> None:
    """Set a tensor; ``load_state_dict`` would refuse a stack with only some of the experts."""
    parent, _, leaf = name.rpartition(".")
    module = network.get_submodule(parent)
    if leaf in module._buffers:
        module._buffers[leaf] = value
    else:
        module._parameters[leaf] = nn.Parameter(value, requires_grad=False)


def _of_safetensors(path: Path, file: Any, stored_name: str, name: str) -> StoredTensor:
    def fetch(rows: Rows) -> torch.Tensor:
        with _safetensors():
            tensor: torch.Tensor = file.get_tensor(stored_name) if rows is None else file.get_slice(stored_name)[rows]
        return tensor

    header = file.get_slice(stored_name)
    return StoredTensor(path, name, tuple(header.get_shape()), DTYPES.get(header.get_dtype()), fetch)


def _of_pickle(path: Path, state: Any, rename: Callable[[str], str]) -> Iterator[StoredTensor]:
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path}: is not a state dict")
    for name, value in state.items():
        yield StoredTensor(path, rename(name), tuple(value.shape), value.dtype, partial(_rows_of, value))


def _rows_of(tensor: torch.Tensor, rows: Rows) -> torch.Tensor:
    return tensor if rows is None else tensor[rows].clone()


@contextmanager
def _safetensors() -> Iterator[Any]:
    """Give ``safe_open``, whose errors become OSError. It is loaded here, as a machine that draws its weights may lack
    it."""
    from safetensors import SafetensorError, safe_open

    try:
        yield safe_open
    except SafetensorError as error:
        raise OSError(str(error)) from None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ModelError(f"{path}: the file is missing") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        kind = "safetensors" if path.suffix == ".safetensors" else "PyTorch weights"
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: cannot be read as {kind}: {reason}") from None

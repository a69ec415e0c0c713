"""Load weights from disk into a network one tensor at a time: memory-mapped, checked, straight to device and dtype.

Weights in fewer bits (`model.inspection.packed`) are computed on the host in float32, or stay as they are where the
network computes with them.
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoetrope.model.checkpoints.read_ahead import Reading, read_ahead, readers
from zoetrope.model.checkpoints.spans import Rows, Scratch, read_span
from zoetrope.model.checkpoints.unpack import has_rows, rows_of, unpack, unpack_gguf
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.headers import Header
from zoetrope.model.inspection.keys import check_tensors
from zoetrope.model.inspection.packed import PACKED, Packed, read_packed
from zoetrope.model.network.precision import dtype_of

if TYPE_CHECKING:
    from zoetrope.model.network.quantized import QuantizedWeight

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
HEADED = (".safetensors", ".gguf")  # formats whose header says everything

OnProgress = Callable[[int, int], None]


def ignore_progress(done: int, total: int) -> None:
    """Do nothing: for callers that show no progress."""


def ignore_placed(name: str) -> None:
    """Do nothing: for callers to whom it does not matter when a tensor has its place."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, or one to be drawn, of which only name and shape have been read.

    Attributes:
        name: in the network. dtype: None if it is not a supported floating-point type.
        fetch_rows8: of bytes that 8-bit products take as they are: reads them, ``[out, in]`` float8_e4m3fn, and a scale
            for each output, ``[out]`` float32.
        form: how the file stores it, such as ``F8_E4M3 with a scale``. stored_bytes: how many it takes there.
        stream: as ``fetch``, but in any thread, and by large reads where a memory map would make small ones; None if it
            can only be fetched.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    fetch: Callable[[Rows], torch.Tensor]
    fetch_rows8: Callable[[], tuple[torch.Tensor, torch.Tensor]] | None = None
    form: str = ""
    stored_bytes: int = 0
    stream: Callable[[Rows, Scratch | None], torch.Tensor] | None = None

    def read(self, rows: Rows = None, *, streamed: bool = False, scratch: Scratch | None = None) -> torch.Tensor:
        """Read it onto the CPU in the file's dtype, or only ``rows`` along the first dimensions. A drawn tensor is on
        its device at once, in its final dtype.

        Args:
            streamed: by ``stream``, if it has one. scratch: where that may read to; then the tensor must be copied
                before this thread reads another.

        Raises:
            ModelError: the file ends before the tensor does.
        """
        with _reading(self.path):
            return self.stream(rows, scratch) if streamed and self.stream is not None else self.fetch(rows)

    def read_rows8(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Read the bytes and scales of ``fetch_rows8`` onto the CPU. Raises ModelError as `read`, or if there is NaN or
        infinity in them."""
        assert self.fetch_rows8 is not None
        with _reading(self.path):
            q, scale = self.fetch_rows8()
        if (q.view(torch.uint8) & 0x7F == 0x7F).any() or not scale.isfinite().all():  # e4m3 has NaN and no infinity
            raise ModelError(f"{self.path}: {self.name} holds NaN or infinity")
        return q, scale


@contextmanager
def open_weights(
    paths: Sequence[Path], rename: Callable[[str], str] = str, prefix: str = ""
) -> Iterator[list[StoredTensor]]:
    """List all tensors of safetensors, GGUF, ``.pth`` or ``.bin`` files, reading only the headers.

    Args:
        rename: maps names in the files to those of the network. prefix: that all names in the files begin with.

    Raises:
        ModelError: a file is missing, truncated or in another format, or two hold the same tensor.
    """
    tensors: list[StoredTensor] = []
    open_files: dict[Path, Any] = {}
    try:
        for path in paths:
            with _reading(path):
                if path.suffix == ".safetensors":
                    with _safetensors() as safe_open:
                        open_files[path] = safe_open(path, framework="pt")
                elif path.suffix != ".gguf":
                    state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
                    tensors += list(_of_pickle(path, state, rename))
        headed = [path for path in paths if path.suffix in HEADED]
        tensors += [_of_packed(one, rename(one.name), open_files) for one in read_packed(headed, prefix)]
        yield tensors
    finally:
        for file in open_files.values():
            file.__exit__(None, None, None)


def forms_of(tensors: Sequence[StoredTensor]) -> str:
    """Say in what formats tensors are stored, and how many bytes they take."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for tensor in tensors:
        form = tensor.form or str(tensor.dtype).removeprefix("torch.")
        count[form] += 1
        size[form] += tensor.stored_bytes
    return ", ".join(f"{count[form]} in {form} ({size[form] / 2**30:.2f} GiB)" for form, _ in size.most_common())


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
    threads: int | None = None,
) -> None:
    """Fill a network that was made on the meta device.

    Names, shapes and types are compared before anything is read, so that a wrong file is refused at once. Tensors
    without a place in the network are ignored where `model.inspection.keys` allows it; `model.catalog.checks` has
    warned of them. Threads read ahead of what is placed, `model.checkpoints.read_ahead.ROOM_BYTES` at most.

    Args:
        where: the file or directory to name in errors.
        float32_modules: tensors with one of these as a part of their name stay in float32, as in diffusers.
        tied: names that may be absent, with the name of the tensor that they share.
        owned: returns the rows of a tensor that this rank holds, None for all; the others are never read.
        quantized: weights that are not placed in the network but given to these, in the dtype of the file, or as its
            bytes where it has 8-bit floats already.
        on_progress: called with (elements done, elements in total).
        on_placed: called with the name of each tensor once the network holds it; may take it away.
        threads: that read; None: as many as suit the machine; 0: one tensor is read after the other, as it is placed.

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
    threads = readers() if threads is None else threads
    names = list(wanted)
    shared = {name for number, name in enumerate(names) if tied and tied.get(name) in names[:number]}
    by_rows8 = {n for n, weight in quantized.items() if weight.take_rows8 is not None and stored[n].fetch_rows8}
    on_cpu, scratch = device.type == "cpu", Scratch()

    def finish(name: str, value: torch.Tensor) -> torch.Tensor:
        """Bring what was read to its device and type, and check it."""
        value = value.to(device)
        if name not in quantized:
            value = value.to(dtype_of(name, dtype, float32_modules))
        check_finite(value, stored[name])
        return value

    def read(name: str) -> Any:
        if name in by_rows8:
            return stored[name].read_rows8()
        copied = on_cpu and name not in quantized and stored[name].dtype != dtype_of(name, dtype, float32_modules)
        value = stored[name].read(owned(name), streamed=threads > 0, scratch=scratch if copied else None)
        return finish(name, value) if on_cpu else value  # only one thread talks to a GPU

    ahead = read_ahead(
        (
            Reading(_bytes(stored[name], owned(name)), partial(read, name), anywhere=stored[name].stream is not None)
            for name in wanted
            if name not in shared
        ),
        threads,
    )
    with closing(ahead):
        for name, shape in wanted.items():
            if name in by_rows8:
                take_rows8 = quantized[name].take_rows8
                assert take_rows8 is not None
                take_rows8(*(part.to(device) for part in next(ahead)))
            else:
                value = placed[(tied or {})[name]] if name in shared else next(ahead)
                value = value if on_cpu or name in shared else finish(name, value)
                if name in (tied or {}).values():
                    placed[name] = value
                if name in quantized:
                    quantized[name].take(value)
                else:
                    _place(network, name, value)
            on_placed(name)
            done += torch.Size(shape).numel()
            on_progress(done, total)


def _bytes(tensor: StoredTensor, rows: slice | None) -> int:
    """Return how many bytes of a tensor are read."""
    if rows is None or not tensor.shape:
        return tensor.stored_bytes
    return tensor.stored_bytes * len(range(*rows.indices(tensor.shape[0]))) // max(1, tensor.shape[0])


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


def _of_packed(packed: Packed, name: str, open_files: Mapping[Path, Any]) -> StoredTensor:
    def read(header: Header) -> torch.Tensor:
        if header.path.suffix == ".gguf":
            return _read_gguf(header)
        with _safetensors():
            tensor: torch.Tensor = open_files[header.path].get_tensor(header.name)
        return tensor

    as_stored = packed.is_plain and packed.shape == packed.values.shape and packed.path.suffix == ".safetensors"

    def fetch(rows: Rows) -> torch.Tensor:
        if as_stored:
            with _safetensors():
                file = open_files[packed.path]
                tensor: torch.Tensor = read(packed.values) if rows is None else file.get_slice(packed.values.name)[rows]
            return tensor
        return _rows_of(unpack(packed, read), rows)

    def stream(rows: Rows, scratch: Scratch | None) -> torch.Tensor:
        dtype = DTYPES.get(packed.values.dtype)
        if as_stored and dtype is not None and not isinstance(rows, tuple):
            return read_span(packed.values, dtype, rows, scratch)
        return fetch(rows)

    served = packed.scale is not None or packed.values.dtype in PACKED
    parts = [packed.values, *([packed.scale] if packed.scale is not None else [])]
    return StoredTensor(
        packed.path,
        name,
        packed.shape,
        torch.float32 if served else DTYPES.get(packed.values.dtype),
        fetch,
        partial(rows_of, packed, read) if has_rows(packed) else None,
        packed.form,
        sum(part.end - part.start for part in parts),
        stream,
    )


def _read_gguf(header: Header) -> torch.Tensor:
    """Read the weights of a tensor in a GGUF file, in float32."""
    import numpy as np

    data = np.fromfile(header.path, np.uint8, header.end - header.start, offset=header.start)
    if len(data) != header.end - header.start:
        raise OSError(f"it ends within {header.name}")
    return unpack_gguf(data, header.dtype, header.shape)


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
        kind = {".safetensors": "safetensors", ".gguf": "GGUF"}.get(path.suffix, "PyTorch weights")
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path}: cannot be read as {kind}: {reason}") from None

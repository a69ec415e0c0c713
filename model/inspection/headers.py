"""Read the headers of weight files: names, shapes and types of tensors, and whether the file is complete.

Safetensors files (format: README of the safetensors project) begin with a length and a JSON header; PyTorch's zip files
have a pickle that names the tensors. The pickle is read without real classes, and no weights are read. Needs no torch.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoetrope.model.inspection.files import ModelError, check_is_content

MAX_HEADER_BYTES = 100 << 20  # as in safetensors
LENGTH_BYTES = 8
# safetensors' names of types; those of PyTorch's storages and dtypes are mapped to them.
FLOATS = ("F32", "BF16", "F16", "F64")
_STORAGES = {
    "FloatStorage": "F32",
    "BFloat16Storage": "BF16",
    "HalfStorage": "F16",
    "DoubleStorage": "F64",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "BoolStorage": "BOOL",
}


@dataclass(frozen=True)
class Header:
    """A tensor as described in a file's header. ``dtype`` is a name of safetensors, such as BF16."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def read_headers(path: Path) -> list[Header]:
    """List the tensors of a ``.safetensors``, ``.pth`` or ``.bin`` file.

    Raises:
        ModelError: the file is missing, truncated, in another format, or a Git LFS pointer.
    """
    check_is_content(path)
    if path.suffix == ".safetensors":
        return list(_safetensors(path))
    return list(_pickled(path))


def _safetensors(path: Path) -> Iterator[Header]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if size < LENGTH_BYTES or length > MAX_HEADER_BYTES:
                raise _unreadable(path, f"it has {size} bytes and does not begin with a header")
            if size < LENGTH_BYTES + length:
                raise _unreadable(path, f"it is cut off after {size} bytes, within its header")
            text = file.read(length)
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from None
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        found = [
            (Header(path, name, tuple(map(int, entry["shape"])), str(entry["dtype"])), int(entry["data_offsets"][1]))
            for name, entry in entries.items()
        ]
    except (ValueError, AttributeError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
        raise _unreadable(path, "its header is damaged") from None
    expected = LENGTH_BYTES + length + max((end for _, end in found), default=0)
    if size != expected:
        what = "cut off" if size < expected else "too long"
        raise _unreadable(path, f"it is {what}: {size} bytes of {expected} by its header")
    for header, _ in found:
        yield header


def _pickled(path: Path) -> Iterator[Header]:
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise _unreadable(path, "it is not a zip archive")
        with zipfile.ZipFile(path) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
            with archive.open(name) as file:
                state = _Names(file).load()
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from None
    except zipfile.BadZipFile:
        raise _unreadable(path, "it is cut off or damaged: the end of the zip archive is missing") from None
    except ModelError:
        raise
    except Exception as error:  # whatever unpickling garbage raises
        raise _unreadable(path, " ".join(str(error).split())[:200] or type(error).__name__) from None
    if not isinstance(state, dict) or not all(isinstance(value, _Tensor) for value in state.values()):
        raise ModelError(f"{path}: is not a state dict")
    for key, tensor in state.items():
        yield Header(path, str(key), tensor.shape, tensor.dtype)


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: str


class _Inert:
    """Stands for a class or function of torch that does not affect names and shapes."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Dict(OrderedDict[Any, Any]):
    """A dict that takes attributes, as state dicts do."""


class _Names(pickle.Unpickler):
    """Reads a pickle of tensors without torch: every class in it is replaced by one of ours."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return _tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name.startswith("float8_"):
            return name.replace("float8_", "F8_").upper()
        if module.partition(".")[0] == "torch":
            return _Inert
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which weights do not")

    def persistent_load(self, pid: Any) -> Any:
        """Return the type of a storage, given as ("storage", type, key, device, length)."""
        return pid[1] if isinstance(pid[1], str) else "unknown"


def _tensor(storage: str, _offset: int, shape: Any, *rest: Any) -> _Tensor:
    named = [value for value in rest if isinstance(value, str)]  # the dtype of a tensor in a storage without one
    return _Tensor(tuple(int(side) for side in shape), named[0] if named else storage)


def _unreadable(path: Path, why: str) -> ModelError:
    kind = "safetensors" if path.suffix == ".safetensors" else "PyTorch weights"
    return ModelError(f"{path}: cannot be read as {kind}: {why}")

"""Read the headers of weight files: names, shapes and types of tensors, and whether the file is complete.

Safetensors and GGUF files have headers (`model.inspection.safetensors_header`, `model.inspection.gguf_header`);
PyTorch's zip files have a pickle that names the tensors, which is read without real classes. No weights are read. Needs
no torch.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoetrope.model.inspection.files import ModelError, check_is_content
from zoetrope.model.inspection.gguf_header import GgufEntry, read_gguf_header
from zoetrope.model.inspection.safetensors_header import read_safetensors_header
from zoetrope.model.inspection.shown import shown

MAX_PICKLE_BYTES = 16 << 20  # that of the largest checkpoint has a few 100 KB
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
    """A tensor as described in a file's header. ``dtype`` is a name of safetensors, such as BF16, or of GGUF, such as
    Q4_K. ``start``, ``end``: its first byte in the file and the one past its last; both 0 in PyTorch's files."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class FileContents:
    """What a file's header says. ``metadata``: texts beside the tensors of a safetensors file. ``fields``: those of a
    GGUF file."""

    path: Path
    headers: tuple[Header, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)


def read_headers(path: Path) -> list[Header]:
    """List the tensors of a ``.safetensors``, ``.gguf``, ``.pth`` or ``.bin`` file.

    Raises:
        ModelError: the file is missing, truncated, in another format, or a Git LFS pointer.
    """
    return list(read_contents(path).headers)


def read_contents(path: Path) -> FileContents:
    """Read a file's header. Raises ModelError as `read_headers`."""
    check_is_content(path)
    if path.suffix == ".safetensors":
        header = read_safetensors_header(path)
        found = (Header(path, e.name, e.shape, e.dtype, e.start, e.end) for e in header.entries)
        return FileContents(path, tuple(found), metadata=header.metadata)
    if path.suffix == ".gguf":
        gguf = read_gguf_header(path)
        return FileContents(path, tuple(_of_gguf(path, gguf.fields, gguf.entries)), fields=gguf.fields)
    return FileContents(path, tuple(_pickled(path)))


ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # field of a tensor with more dimensions than GGUF has, by its name
FLAT = "patch_embedding.weight"  # that may lack this field
PATCH = (1, 2, 2)  # of every Wan network


def _of_gguf(path: Path, fields: Mapping[str, Any], entries: tuple[GgufEntry, ...]) -> Iterator[Header]:
    """Yield headers with the shapes that tensors have in the network: GGUF has four dimensions, a video network's patch
    embedding has five."""
    shapes = {entry.name: entry.shape for entry in entries}
    for entry in entries:
        shape, true = entry.shape, fields.get(ORIGINAL_SHAPE + entry.name)
        outputs = shapes.get(entry.name.removesuffix("weight") + "bias", ())
        if isinstance(true, tuple) and all(type(side) is int and side > 0 for side in true):
            if math.prod(true) != math.prod(shape):
                raise ModelError(f"{path}: {entry.name} has shape {shape}, its field says {true}")
            shape = true
        elif entry.name.endswith(FLAT) and len(shape) == 4 and shape[-2:] == PATCH[-2:] and len(outputs) == 1:
            shape = (outputs[0], math.prod(shape) // max(1, outputs[0] * math.prod(PATCH)), *PATCH)
            if math.prod(shape) != math.prod(entry.shape):
                raise ModelError(f"{path}: {entry.name} has shape {entry.shape}, its bias {outputs}")
        yield Header(path, entry.name, shape, entry.kind, entry.start, entry.end)


def _pickled(path: Path) -> Iterator[Header]:
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise _unreadable(path, "it is not a zip archive")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if packed := next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None):
                raise _unreadable(path, f"{shown(packed.filename)} in it is compressed, which PyTorch never does")
            (entry,) = [entry for entry in entries if entry.filename.endswith("data.pkl")]
            if entry.file_size > MAX_PICKLE_BYTES:
                raise _unreadable(path, f"its pickle has {entry.file_size} bytes, at most {MAX_PICKLE_BYTES} are read")
            with archive.open(entry) as file:
                data = file.read()
            _check_memo(path, data)
            state = _Names(io.BytesIO(data)).load()
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


def _check_memo(path: Path, data: bytes) -> None:
    """Raise ModelError if a pickle numbers what it repeats as no writer does: memory is set aside up to the number."""
    for code, number, _ in pickletools.genops(data):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(number, int) and number > len(data):
            raise _unreadable(path, f"its pickle has {len(data)} bytes and numbers a part of them {number}")


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
    return ModelError(f"{path}: cannot be read as PyTorch weights: {why}")

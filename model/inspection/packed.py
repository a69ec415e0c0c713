"""Tell how a file stores each weight: as it is, or in fewer bits with scales beside it. Needs no torch.

Formats: ComfyUI's fp8 (a plain cast; ``scaled_fp8`` with ``scale_weight``; ``_quantization_metadata`` or
``comfy_quant``, as its QUANTIZATION.md describes them), LightX2V's and musubi-tuner's scales, TurboDiffusion's blocks,
and GGUF. Everything else is refused by name before a weight is read. `model.checkpoints.unpack` computes the weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.gguf_header import GGUF_PLAIN, GGUF_TYPES
from zoetrope.model.inspection.headers import FLAT, FLOATS, PATCH, FileContents, Header, read_contents

Scaling = Literal["none", "tensor", "rows", "tiles", "runs", "mx"]
FP8 = ("F8_E4M3", "F8_E5M2")
BLOCKED = tuple(kind for kind, _, _ in GGUF_TYPES.values() if kind not in GGUF_PLAIN)
PACKED = (*FP8, *BLOCKED)  # types whose values are no weights yet, even without scales
TILE = 128  # outputs and inputs that share a scale in a tile
MX_BLOCK = 32  # inputs that share an exponent in mxfp8
MX_ROWS, MX_COLUMNS = 128, 4  # scales of mxfp8 are stored in tiles of so many, see `model.checkpoints.unpack`
MARKER = "scaled_fp8"  # of ComfyUI: an empty tensor, or one of two values: products in full precision
TOKENIZER_TENSOR = "spiece_model"  # of ComfyUI's text encoders: a SentencePiece model as bytes
METADATA_KEY = "_quantization_metadata"
MAX_COMFY_QUANT_BYTES = 64 << 10
SCALES = ("scale_weight", "weight_scale")
UNUSED = ("scale_input", "input_scale")  # of activations, which are quantised by row when they are made
INT8_WEIGHT = "int8_weight"  # of TurboDiffusion
USE = "use a bf16, fp16, fp8 or GGUF file of the model instead"
# What other formats leave in the names of tensors, in the order in which they are told apart.
FOREIGN = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r"\.(absmax|quant_map|SCB|weight_format)$|\.quant_state\.|quant_state\b", "bitsandbytes (nf4, int8)"),
        (r"\.(wscales|smooth_factor|smooth_factor_orig|wcscales|wtscale|proj_down|proj_up)$", "SVDQuant (Nunchaku)"),
        (r"\.(qweight|qzeros|g_idx|pre_quant_scale)$", "AWQ or GPTQ"),
        (r"_weight_(qdata|scale|zero_point)$|\.tensor_impl|\.weight_zero_point$", "torchao"),
        (r"\.weight\._(data|scale|shift)$", "optimum-quanto"),
        (r"\.weight_scale_2$", "NVFP4"),
        (r"\.(weight_codebook|weight_s_rel|weight_s_channel)$", "w4a8"),
    )
)
REFUSED_FORMATS = {
    "nvfp4": "NVFP4 (4 bits, of Blackwell GPUs)",
    "convrot_w4a4": "convrot_w4a4 (4 bits, rotated)",
    "asym_w4a8_int8": "asym_w4a8_int8 (4 bits)",
    "awq_w4a16": "AWQ (4 bits)",
}
FORMATS = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8_tensorwise": "I8", "mxfp8": "F8_E4M3"}


@dataclass(frozen=True)
class Packed:
    """A weight as a file stores it.

    Attributes:
        name: in the file, without a prefix. shape: of the weight.
        values: the tensor with its numbers. scale: the one with its scales, if any.
        scaling: what shares a scale: the tensor, each output (rows), ``TILE x TILE`` (tiles), ``run`` inputs of an
            output (runs), ``MX_BLOCK`` inputs of an output, with exponents for scales (mx).
        full_precision: the file asks for products in full precision.
    """

    name: str
    shape: tuple[int, ...]
    values: Header
    scale: Header | None = None
    scaling: Scaling = "none"
    run: int = 0
    full_precision: bool = False

    @property
    def path(self) -> Path:
        return self.values.path

    @property
    def is_plain(self) -> bool:
        """Whether the numbers in the file are the weight."""
        return self.scale is None and self.values.dtype in FLOATS

    @property
    def form(self) -> str:
        """Name the format, for reports."""
        words = {
            "none": "",
            "tensor": " with a scale",
            "rows": " with a scale for each output",
            "tiles": f" with a scale for each {TILE} x {TILE}",
            "runs": f" with a scale for each {self.run} inputs",
            "mx": f" with an exponent for each {MX_BLOCK} inputs",
        }
        return self.values.dtype + words[self.scaling]


def read_packed(paths: Sequence[Path], prefix: str = "") -> list[Packed]:
    """List the weights in files: those of one network.

    Args:
        prefix: that all names begin with; it is taken off.

    Raises:
        ModelError: a file cannot be read, a format is refused, a scale is missing or has no weight, or two files hold
            the same tensor.
    """
    files = [read_contents(path) for path in paths]
    return pack(files, prefix)


def pack(files: Sequence[FileContents], prefix: str = "") -> list[Packed]:
    """Group the tensors of files that have been read; see `read_packed`."""
    found: dict[str, Header] = {}
    for file in files:
        for header in file.headers:
            name = header.name.removeprefix(prefix)
            if name in found and name != MARKER:
                other = found[name].path
                where = f"in {other} and in" if other != file.path else "twice in"
                raise ModelError(f"{name} is {where} {file.path}: two files claim one tensor, name one of them")
            found[name] = header
    _refuse_foreign(found)
    return list(_Grouping(found, _layer_formats(files, found, prefix)).packed())


@dataclass(frozen=True)
class _LayerFormat:
    format: str
    full_precision: bool


class _Grouping:
    def __init__(self, found: Mapping[str, Header], formats: Mapping[str, _LayerFormat]) -> None:
        self._found = found
        self._formats = formats
        marker = found.get(MARKER)
        self._all_scaled = marker is not None or any(
            header.dtype in FP8 and self._scale_name(name) is not None for name, header in found.items()
        )
        self._full_precision = marker is not None and math.prod(marker.shape) == 2

    def packed(self) -> Iterator[Packed]:
        for layer in self._formats:
            if f"{layer}.weight" not in self._found:
                raise ModelError(f"{self._any.path}: its quantisation names {layer}, of which it holds no weight")
        for name, header in self._found.items():
            layer, _, leaf = name.rpartition(".")
            if name in (MARKER, TOKENIZER_TENSOR) or leaf == "comfy_quant" or leaf in UNUSED:
                continue
            if leaf in SCALES or (leaf == "scale" and f"{layer}.{INT8_WEIGHT}" in self._found):
                self._check_has_weight(name, layer)
                continue
            yield self._tiled(layer, header) if leaf == INT8_WEIGHT else self._one(name, header)

    @property
    def _any(self) -> Header:
        return next(iter(self._found.values()))

    def _scale_name(self, name: str) -> str | None:
        layer, _, leaf = name.rpartition(".")
        if leaf != "weight":
            return None
        return next((f"{layer}.{scale}" for scale in SCALES if f"{layer}.{scale}" in self._found), None)

    def _check_has_weight(self, name: str, layer: str) -> None:
        both = [scale for scale in SCALES if f"{layer}.{scale}" in self._found]
        if len(both) > 1:
            raise ModelError(f"{self._found[name].path}: holds both {' and '.join(f'{layer}.{s}' for s in both)}")
        if f"{layer}.weight" not in self._found and f"{layer}.{INT8_WEIGHT}" not in self._found:
            raise ModelError(f"{self._found[name].path}: holds {name}, but no {layer}.weight")

    def _tiled(self, layer: str, values: Header) -> Packed:
        """Return a weight of TurboDiffusion."""
        name, scale = f"{layer}.weight", self._found.get(f"{layer}.scale")
        if scale is None:
            raise ModelError(f"{values.path}: {layer}.scale is missing, {values.name} needs it")
        if name in self._found:
            raise ModelError(f"{values.path}: holds both {name} and {values.name}")
        if values.dtype != "I8":
            raise ModelError(f"{values.path}: {values.name} is stored as {values.dtype}, expected I8")
        return Packed(name, values.shape, values, scale, *_geometry(values, scale))

    def _one(self, name: str, values: Header) -> Packed:
        layer = name.rpartition(".")[0]
        told = self._formats.get(layer) if name.endswith(".weight") else None
        full = self._full_precision if told is None else told.full_precision
        if told is not None and values.dtype != FORMATS[told.format]:
            raise ModelError(
                f"{values.path}: {name} is stored as {values.dtype}, its quantisation says {told.format}, which is "
                f"{FORMATS[told.format]}"
            )
        scale_name = self._scale_name(name)
        if scale_name is None:
            if told is not None or values.dtype == "I8" or (values.dtype in FP8 and self._all_scaled):
                others = (scale for scale in SCALES if any(other.endswith(f".{scale}") for other in self._found))
                missing = f"{layer}.{next(others, SCALES[-1])}"
                raise ModelError(f"{values.path}: {missing} is missing: {name} in {values.dtype} needs one")
            return Packed(name, _patches(name, values.shape), values)
        scale = self._found[scale_name]
        if told is not None and told.format == "mxfp8":
            return _mx(name, values, scale, full)
        if values.dtype not in (*FP8, "I8", *FLOATS):
            raise ModelError(f"{values.path}: {name} is stored as {values.dtype} with {scale_name}: {USE}")
        return Packed(name, values.shape, values, scale, *_geometry(values, scale), full and values.dtype in FP8)


def _patches(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a patch embedding, which TurboDiffusion's linear layer flattens to ``[out, (c t h w)]``."""
    volume = math.prod(PATCH)
    if not name.endswith(FLAT) or len(shape) != 2 or shape[1] % volume:
        return shape
    return (shape[0], shape[1] // volume, *PATCH)


def _geometry(values: Header, scale: Header) -> tuple[Scaling, int]:
    """Tell what shares a scale, by the shapes."""
    if scale.dtype not in FLOATS:
        raise ModelError(f"{scale.path}: {scale.name} is stored as {scale.dtype}, expected one of {', '.join(FLOATS)}")
    shape = scale.shape
    if math.prod(shape) == 1:
        return "tensor", 0
    if values.shape and shape in (values.shape[:1], (values.shape[0], 1)):
        return "rows", 0
    if len(values.shape) == 2:
        outputs, inputs = values.shape
        if shape == (-(-outputs // TILE), -(-inputs // TILE)):
            return "tiles", 0
        runs = shape[:-1] if len(shape) == 3 and shape[-1] == 1 else shape
        if len(runs) == 2 and runs[0] == outputs and 1 < runs[1] < inputs and inputs % runs[1] == 0:
            return "runs", inputs // runs[1]
    raise ModelError(
        f"{scale.path}: {scale.name} has shape {shape}, which no known format has for a weight of {values.shape}"
    )


def _mx(name: str, values: Header, scale: Header, full: bool) -> Packed:
    expected: tuple[int, ...] = ()
    if len(values.shape) == 2 and values.shape[1] % MX_BLOCK == 0:
        rows, columns = values.shape[0], values.shape[1] // MX_BLOCK
        expected = (-(-rows // MX_ROWS) * MX_ROWS, -(-columns // MX_COLUMNS) * MX_COLUMNS)
    if scale.dtype not in ("U8", "F8_E8M0") or scale.shape != expected:
        raise ModelError(
            f"{scale.path}: {scale.name} is {scale.dtype} of {scale.shape}, mxfp8 needs U8 of {expected} for a weight "
            f"of {values.shape}"
        )
    return Packed(name, values.shape, values, scale, "mx", MX_BLOCK, full)


def _refuse_foreign(found: Mapping[str, Header]) -> None:
    for pattern, what in FOREIGN:
        for name, header in found.items():
            if pattern.search(name) and not (what == "torchao" and name.rpartition(".")[2] in SCALES):
                raise ModelError(f"{header.path}: {name} is of {what} weights, which are not served: {USE}")


def _layer_formats(files: Sequence[FileContents], found: Mapping[str, Header], prefix: str) -> dict[str, _LayerFormat]:
    """Read what ComfyUI's newer files say of each quantised layer."""
    formats: dict[str, _LayerFormat] = {}
    for file in files:
        text = file.metadata.get(METADATA_KEY)
        if text is None:
            continue
        layers = _json(text, f"{file.path}: {METADATA_KEY}").get("layers")
        if not isinstance(layers, dict):
            raise ModelError(f"{file.path}: {METADATA_KEY} must have an object of layers")
        for layer, said in layers.items():
            formats[layer.removeprefix(prefix)] = _layer_format(said, f"{file.path}: {METADATA_KEY} of {layer}")
    for name, header in found.items():
        if name.endswith(".comfy_quant"):
            said = _json(_content(header), f"{header.path}: {name}")
            formats[name.removesuffix(".comfy_quant")] = _layer_format(said, f"{header.path}: {name}")
    return formats


def _content(header: Header) -> bytes:
    """Read a small tensor of bytes."""
    size = header.end - header.start
    if header.dtype != "U8" or not 0 < size <= MAX_COMFY_QUANT_BYTES:
        raise ModelError(f"{header.path}: {header.name} must be 1 to {MAX_COMFY_QUANT_BYTES} bytes of U8")
    try:
        with header.path.open("rb") as file:
            file.seek(header.start)
            return file.read(size)
    except OSError as error:
        raise ModelError(f"{header.path}: cannot be read: {error.strerror}") from None


def _json(text: str | bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ModelError(f"{where} is not JSON") from None
    if not isinstance(value, dict):
        raise ModelError(f"{where} must be a JSON object")
    return value


def _layer_format(said: Any, where: str) -> _LayerFormat:
    """Read the description of one layer. Raises ModelError if its format is not served."""
    name = said.get("format") if isinstance(said, dict) else None
    if not isinstance(name, str):
        raise ModelError(f"{where} must name a format")
    if any(said.get(key) for key in ("convrot", "rotation", "hadamard")):
        raise ModelError(f"{where}: {name} with convrot (rotated inputs) is not served: {USE}")
    if name not in FORMATS:
        what = REFUSED_FORMATS.get(name, name[:60])
        raise ModelError(f"{where}: {what} is not served: {USE}")
    return _LayerFormat(name, said.get("full_precision_matrix_mult") is True)


def logical_headers(packed: Sequence[Packed], rename: Callable[[str], str] = str) -> dict[str, Header]:
    """Describe weights as if they were stored in float32 where they are packed: name in the network -> header.

    Raises:
        ModelError: two tensors get one name.
    """
    found: dict[str, Header] = {}
    for one in packed:
        name = rename(one.name)
        served = one.scale is not None or one.values.dtype in PACKED
        dtype = "F32" if served else one.values.dtype
        if name in found:
            raise ModelError(f"{one.path}: {one.values.name} and {found[name].name} are both {name}")
        found[name] = Header(one.path, one.values.name, one.shape, dtype)
    return found

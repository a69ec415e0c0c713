"""The trust rule: a kernel is chosen only where a committed GPU run showed it correct, and faster than torch.

Only ``python -m zoetrope.benchmarks.kernels`` on a GPU writes ``data/proofs.json``. A proof names the kernel
(operation, backend, dtype, head dimension), the compute capability, the version of Triton, the fingerprint of the
sources and that of the tuned tiles: a kernel that was edited since, that another Triton compiles, or that runs with
other tiles, is no longer trusted. Beside it stand the speeds that were measured with this very code (`Speed`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from zoetrope.kernels.gpu.tiles import tuned_tiles
from zoetrope.kernels.select.fingerprint import fingerprint

PROOFS = Path(__file__).parents[1] / "data" / "proofs.json"
# (operation, backend) -> the module whose code is trusted
MODULES: dict[tuple[str, str], str] = {
    ("grouped_gemm", "triton"): "zoetrope.kernels.gpu.grouped_gemm",
    ("grouped_gemm_fp8", "triton"): "zoetrope.kernels.gpu.grouped_gemm_fp8",
    ("quantise_fp8", "triton"): "zoetrope.kernels.gpu.quantise_fp8",
    ("router_logits", "triton"): "zoetrope.kernels.gpu.router_logits",
    ("routing", "triton"): "zoetrope.kernels.gpu.routing",
    ("permute_rows", "triton"): "zoetrope.kernels.gpu.permute_rows",
    ("combine", "triton"): "zoetrope.kernels.gpu.combine",
    ("dispatch", "triton"): "zoetrope.kernels.gpu.dispatch",
    ("residual_norm", "triton"): "zoetrope.kernels.gpu.residual_norm",
    ("qk_norm_rope", "triton"): "zoetrope.kernels.gpu.qk_norm_rope",
    ("attention", "triton"): "zoetrope.kernels.gpu.attention",
    ("attention", "gluon"): "zoetrope.kernels.gpu.attention_gluon",
    ("attention", "int8"): "zoetrope.kernels.gpu.attention_8bit",
    ("attention", "int8_fp8"): "zoetrope.kernels.gpu.attention_8bit",
}
DTYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8",
}
Key = tuple[str, str, str, int | None, str]  # operation, backend, dtype, head dimension, capability


@dataclass(frozen=True)
class Speed:
    """How fast a proved kernel is in one operation on one class of shapes.

    Attributes:
        op: the operation, which may be another than the proof's: the grouped GEMM also computes ``linear_gelu``.
        shape: the class, as `kernels.select.shapes` names it.
        ratio: seconds of the fastest of torch's implementations over seconds of the kernel: above 1, the kernel wins.
        fastest: that implementation. against: all that were timed.
        seconds: of the kernel, a median. device, date: as in `Proof`.
    """

    op: str
    shape: str
    ratio: float
    fastest: str
    against: tuple[str, ...]
    seconds: float
    device: str
    date: str


@dataclass(frozen=True)
class Proof:
    """Evidence that one kernel was correct on one kind of GPU.

    Attributes:
        op, backend: as in `MODULES`. dtype: ``fp32``, ``fp16``, ``bf16`` or ``fp8``. head_dim: of attention, else None.
        capability: compute capability, ``9.0`` for Hopper. device: the GPU's name. triton, torch: versions.
        error: the largest relative error of all cases against float64. limit: what it had to stay under.
        cases: how many inputs were tried. fingerprint: of the sources. date: ISO 8601, UTC.
        tiles: fingerprint of the tuned tiles that it ran with, "" for the defaults; None: made before that was kept.
        speeds: measured since, with the same sources and tiles; none in old files.
    """

    op: str
    backend: str
    dtype: str
    head_dim: int | None
    capability: str
    device: str
    triton: str
    torch: str
    error: float
    limit: float
    cases: int
    fingerprint: str
    date: str
    tiles: str | None = None
    speeds: tuple[Speed, ...] = ()

    @property
    def key(self) -> Key:
        """The key by which a later run of the same kernel replaces this proof."""
        return self.op, self.backend, self.dtype, self.head_dim, self.capability

    @property
    def holds(self) -> bool:
        """Whether its figures show a correct kernel: cases were run, and the error (not NaN) is within the limit."""
        return self.cases > 0 and self.error <= self.limit

    def same_code(self, other: Proof) -> bool:
        """Tell whether another proof is of the same machine code: what was measured with one is true of both."""
        facts = ("key", "fingerprint", "tiles", "device")
        same = all(getattr(self, fact) == getattr(other, fact) for fact in facts)
        return same and _minor(self.triton) == _minor(other.triton)

    def speed(self, op: str, shape: str) -> Speed | None:
        """Return what was measured in an operation on a class of shapes; None if nothing was."""
        return next((speed for speed in self.speeds if (speed.op, speed.shape) == (op, shape)), None)


def dtype_name(dtype: torch.dtype | str) -> str:
    """Return ``bf16`` for ``torch.bfloat16``; names are returned unchanged."""
    return dtype if isinstance(dtype, str) else DTYPES.get(dtype, str(dtype))


@lru_cache
def triton_version() -> str | None:
    """Return the version of the installed Triton without importing it; None if there is none."""
    for name in ("triton", "pytorch-triton"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def tiles_digest(op: str, backend: str, dtype: str, head_dim: int | None, table: str | None) -> str:
    """Return the fingerprint of the tuned tiles that one kernel may run with on one device; "" if all are defaults.

    Args:
        table: the device's table (`kernels.gpu.tiles.device_table`), None if it has none.
    """
    keys = _keys(op, backend, dtype, head_dim)
    used = {key: tile for key, tile in tuned_tiles(table).items() if key.startswith(keys)}
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest() if used else ""


def _keys(op: str, backend: str, dtype: str, head_dim: int | None) -> tuple[str, ...]:
    """Return how the tables' names of a kernel's tiles begin."""
    match op:
        case "attention":
            return (f"attention/{backend}/{dtype}/d{head_dim}",)
        case "grouped_gemm":
            return (f"grouped_gemm/{dtype}/",)
        case "grouped_gemm_fp8":
            return ("grouped_gemm/fp8/",)
        case "residual_norm":
            return "residual_norm/", "residual_gate/"
        case _:
            return (f"{op}/",)


@dataclass(frozen=True)
class Standing:
    """Whether a kernel is proved here: the proof, or why there is none that holds."""

    proof: Proof | None
    why: str = ""


def standing(
    op: str,
    backend: str,
    dtype: torch.dtype | str,
    capability: str | tuple[int, int],
    *,
    head_dim: int | None = None,
    table: str | None = None,
    path: Path = PROOFS,
    triton: str | None = None,
) -> Standing:
    """Look for the proof that a kernel may be trusted on GPUs of this capability.

    Args:
        op, backend: a pair of `MODULES`; any other pair has no proof.
        capability: ``"9.0"``, or what ``torch.cuda.get_device_capability()`` gives.
        head_dim: of attention kernels; the proof must be for the same.
        table: the name of the device's tuned tiles, which must be those of the proof; None: it has none.
        path: the file of proofs. triton: the version to compare, by default the installed one.
    """
    module = MODULES.get((op, backend))
    version = triton if triton is not None else triton_version()
    if module is None or version is None:
        return Standing(None, "triton is not installed" if version is None else "it has no proofs")
    name = dtype_name(dtype)
    wanted: Key = (op, backend, name, head_dim, _capability(capability))
    found = next((proof for proof in load(path) if proof.key == wanted), None)
    if found is None or not found.holds:
        return Standing(None, "not proved on this device")
    if _minor(found.triton) != _minor(version):
        return Standing(None, f"proved with Triton {found.triton}, this is {version}")
    try:
        current = fingerprint(module)
    except (OSError, SyntaxError, ValueError):
        return Standing(None, "its sources are not installed, so nothing can be compared with its proof")
    if found.fingerprint != current:
        return Standing(None, f"its code has changed since it was proved on {found.date}")
    if (found.tiles or "") != tiles_digest(op, backend, name, head_dim, table):
        return Standing(None, f"its tiles have changed since it was proved on {found.date}")
    return Standing(found)


def record(entries: Iterable[Proof], *, failed: Iterable[Key] = (), path: Path = PROOFS) -> list[Proof]:
    """Merge into the file: entries replace those with the same key, keys in ``failed`` are removed.

    Speeds stay where the code did: an entry takes over those of the proof of the same code that it replaces.

    Returns:
        All proofs in the file afterwards.

    Raises:
        ValueError: an entry's own figures say that the kernel was wrong, or it names a kernel that is not in `MODULES`.
    """
    entries = list(entries)
    for entry in entries:
        if (entry.op, entry.backend) not in MODULES:
            raise ValueError(f"no kernel {entry.op}/{entry.backend}: known are {sorted(MODULES)}")
        if not entry.holds:
            raise ValueError(
                f"{'/'.join(map(str, entry.key))} has error {entry.error} in {entry.cases} cases: a proof needs at "
                f"most {entry.limit} in at least one"
            )
    merged = {proof.key: proof for proof in load(path)}
    for entry in entries:
        old = merged.get(entry.key)
        merged[entry.key] = _with_speeds(entry, old.speeds if old is not None and old.same_code(entry) else ())
    for key in failed:
        merged.pop(key, None)
    return _write(merged, path)


def record_speeds(speeds: Mapping[Key, Iterable[Speed]], path: Path = PROOFS) -> list[Proof]:
    """Put measured speeds beside the proofs with these keys, in place of older ones of the same operation and shapes.

    Keys without a proof are passed over: the speed of a kernel that may be wrong means nothing.

    Returns:
        All proofs in the file afterwards.
    """
    merged = {proof.key: proof for proof in load(path)}
    for key, found in speeds.items():
        if key in merged:
            new = replace(merged[key], speeds=tuple(found))
            merged[key] = _with_speeds(new, merged[key].speeds)
    return _write(merged, path)


def _with_speeds(proof: Proof, older: Iterable[Speed]) -> Proof:
    """Return a proof with the older speeds added whose places its own leave free."""
    found = {(speed.op, speed.shape): speed for speed in (*older, *proof.speeds)}
    return replace(proof, speeds=tuple(found[place] for place in sorted(found)))


def _write(proofs: Mapping[Key, Proof], path: Path) -> list[Proof]:
    stored = sorted(proofs.values(), key=lambda proof: [str(part) for part in proof.key])
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(json.dumps([asdict(proof) for proof in stored], indent=1) + "\n")
    scratch.replace(path)
    return stored


def load(path: Path = PROOFS) -> list[Proof]:
    """Read all proofs in a file, whether or not they still hold; none if there is no file."""
    return [_proof(entry) for entry in json.loads(path.read_text())] if path.is_file() else []


def _proof(entry: dict[str, Any]) -> Proof:
    """Read a proof; files from before tiles and speeds were kept have neither."""
    speeds = (Speed(**{**speed, "against": tuple(speed["against"])}) for speed in entry.get("speeds", ()))
    return Proof(**{**entry, "speeds": tuple(speeds)})


def _capability(capability: str | tuple[int, int]) -> str:
    return capability if isinstance(capability, str) else f"{capability[0]}.{capability[1]}"


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])

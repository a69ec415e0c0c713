"""The trust rule: a kernel is chosen by default only where a committed GPU run showed it correct.

Only ``python -m zoetrope.benchmarks.kernels`` on a GPU writes ``data/proofs.json``. A proof names the kernel
(operation, backend, dtype, head dimension), the compute capability, the version of Triton and the fingerprint of the
sources: a kernel that was edited since, or that another Triton compiles, is no longer trusted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch

from zoetrope.kernels.select.fingerprint import fingerprint

PROOFS = Path(__file__).parents[1] / "data" / "proofs.json"
# (operation, backend) -> the module whose code is trusted
MODULES: dict[tuple[str, str], str] = {
    ("grouped_gemm", "triton"): "zoetrope.kernels.gpu.grouped_gemm",
    ("grouped_gemm_fp8", "triton"): "zoetrope.kernels.gpu.grouped_gemm_fp8",
    ("quantise_fp8", "triton"): "zoetrope.kernels.gpu.quantise_fp8",
    ("router_logits", "triton"): "zoetrope.kernels.gpu.router_logits",
    ("routing", "triton"): "zoetrope.kernels.gpu.routing",
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
class Proof:
    """Evidence that one kernel was correct on one kind of GPU.

    Attributes:
        op, backend: as in `MODULES`. dtype: ``fp32``, ``fp16``, ``bf16`` or ``fp8``. head_dim: of attention, else None.
        capability: compute capability, ``9.0`` for Hopper. device: the GPU's name. triton, torch: versions.
        error: the largest relative error of all cases against float64. limit: what it had to stay under.
        cases: how many inputs were tried. fingerprint: of the sources. date: ISO 8601, UTC.
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

    @property
    def key(self) -> Key:
        """The key by which a later run of the same kernel replaces this proof."""
        return self.op, self.backend, self.dtype, self.head_dim, self.capability

    @property
    def holds(self) -> bool:
        """Whether its figures show a correct kernel: cases were run, and the error (not NaN) is within the limit."""
        return self.cases > 0 and self.error <= self.limit


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


def proved(
    op: str,
    backend: str,
    dtype: torch.dtype | str,
    capability: str | tuple[int, int],
    *,
    head_dim: int | None = None,
    path: Path = PROOFS,
    triton: str | None = None,
) -> Proof | None:
    """Return the proof that a kernel may be trusted on GPUs of this capability, or None.

    Args:
        op, backend: a pair of `MODULES`; any other pair has no proof.
        capability: ``"9.0"``, or what ``torch.cuda.get_device_capability()`` gives.
        head_dim: of attention kernels; the proof must be for the same.
        path: the file of proofs. triton: the version to compare, by default the installed one.
    """
    module = MODULES.get((op, backend))
    version = triton if triton is not None else triton_version()
    if module is None or version is None:
        return None
    wanted: Key = (op, backend, dtype_name(dtype), head_dim, _capability(capability))
    found = next((proof for proof in load(path) if proof.key == wanted), None)
    if found is None or not found.holds or _minor(found.triton) != _minor(version):
        return None
    try:
        return found if found.fingerprint == fingerprint(module) else None
    except (OSError, SyntaxError, ValueError):  # the sources are not installed: nothing to compare with
        return None


def record(entries: Iterable[Proof], *, failed: Iterable[Key] = (), path: Path = PROOFS) -> list[Proof]:
    """Merge into the file: entries replace those with the same key, keys in ``failed`` are removed.

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
    gone = set(failed)
    merged = {proof.key: proof for proof in [*load(path), *entries] if proof.key not in gone}
    stored = sorted(merged.values(), key=lambda proof: [str(part) for part in proof.key])
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.tmp")
    scratch.write_text(json.dumps([asdict(proof) for proof in stored], indent=1) + "\n")
    scratch.replace(path)
    return stored


def load(path: Path = PROOFS) -> list[Proof]:
    """Read all proofs in a file, whether or not they still hold; none if there is no file."""
    return [Proof(**entry) for entry in json.loads(path.read_text())] if path.is_file() else []


def _capability(capability: str | tuple[int, int]) -> str:
    return capability if isinstance(capability, str) else f"{capability[0]}.{capability[1]}"


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])

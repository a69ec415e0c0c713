"""Run the correctness cases, report errors, and make proofs for the kernels that are correct."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from zoetrope.benchmarks.environment import capability, device_name
from zoetrope.benchmarks.kernels.cases import KernelCase, KernelInputs
from zoetrope.benchmarks.kernels.cases_attention import attention_cases
from zoetrope.benchmarks.kernels.cases_dispatch import dispatch_cases
from zoetrope.benchmarks.kernels.cases_gemm import fp8_cases, gemm_cases, tile_cases
from zoetrope.benchmarks.kernels.cases_permute import permute_cases
from zoetrope.benchmarks.kernels.cases_rows import (
    combine_cases,
    qk_norm_rope_cases,
    residual_norm_cases,
    router_logits_cases,
    routing_cases,
)
from zoetrope.benchmarks.kernels.selection import EVERYTHING, Kernel, Selection
from zoetrope.benchmarks.provenance import now
from zoetrope.kernels.check.fake_record import active
from zoetrope.kernels.gpu.tiles import device_table
from zoetrope.kernels.select.fingerprint import fingerprint
from zoetrope.kernels.select.proofs import MODULES, Key, Proof, standing, tiles_digest, triton_version

SETS: dict[str, tuple[Callable[[KernelInputs], Iterator[KernelCase]], ...]] = {
    "grouped_gemm": (gemm_cases, fp8_cases, tile_cases),
    "moe": (router_logits_cases, routing_cases, permute_cases, combine_cases, dispatch_cases),
    "attention": (attention_cases,),
    "passes": (residual_norm_cases, qk_norm_rope_cases),
}


@dataclass(frozen=True)
class Finding:
    """The result of one case: its error (infinity if it raised), and whether two runs gave the same bits.

    ``computed``: false on a fake device (`kernels.check.fake_cuda`), where a case shows only that its kernels compile.
    """

    op: str
    backend: str
    dtype: str
    head_dim: int | None
    name: str
    error: float
    limit: float
    same_bits: bool
    problem: str = ""
    computed: bool = True

    @property
    def kernel(self) -> Kernel:
        return self.op, self.backend, self.dtype, self.head_dim

    @property
    def right(self) -> bool:
        return self.error <= self.limit and self.same_bits and not self.problem

    def as_dict(self) -> dict[str, Any]:
        known = self.computed and self.error != float("inf")
        return {**asdict(self), "error": self.error if known else None, "right": self.right}


# The parts whose cases cover the kernels that a part uses, if not just its own.
NEEDED = {"moe": ("grouped_gemm", "moe"), **dict.fromkeys(("layer", "choice"), tuple(SETS))}


def needed_by(parts: Iterable[str]) -> list[str]:
    """Return the parts whose kernels must be checked before these are timed."""
    needed = {one for part in parts for one in NEEDED.get(part, (part,))}
    return [part for part in SETS if part in needed]


def cases_of(part: str, inputs: KernelInputs, selection: Selection = EVERYTHING) -> Iterator[KernelCase]:
    """Yield the cases of a part, those of selected kernels only."""
    for make in SETS.get(part, ()):
        yield from (case for case in make(inputs) if selection.takes(case.op, case.backend, case.dtype))


def examine(case: KernelCase) -> Finding:
    """Run a case twice, with outputs initialised to NaN."""
    facts = (case.op, case.backend, case.dtype, case.head_dim, case.name)
    try:
        with torch.inference_mode():
            with poisoned():
                first, second = case.run(), case.run()
            if active():
                return Finding(*facts, 0.0, case.limit, True, computed=False)
            error = case.error(first)
            same = all(same_bits(a, b) for a, b in zip(first, second, strict=True))
    except Exception as raised:
        problem = " ".join(f"{type(raised).__name__}: {raised}".split())[:300]
        return Finding(*facts, float("inf"), case.limit, False, problem)
    return Finding(*facts, error, case.limit, same)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors have the same bits; so NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    first, second = (x.contiguous().flatten().view(torch.uint8) for x in (a, b))
    return torch.equal(first, second)


@contextmanager
def poisoned() -> Iterator[None]:
    """Make uninitialised memory read as NaN, or as the largest integer."""
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


# The kernels of each part that a bf16 layer needs.
TRUSTED: dict[str, tuple[Kernel, ...]] = {
    "grouped_gemm": (
        ("grouped_gemm", "triton", "bf16", None),
        ("grouped_gemm_fp8", "triton", "fp8", None),
        ("quantise_fp8", "triton", "bf16", None),
    ),
    "moe": (
        ("router_logits", "triton", "bf16", None),
        ("routing", "triton", "fp32", None),
        ("permute_rows", "triton", "bf16", None),
        ("combine", "triton", "bf16", None),
        ("dispatch", "triton", "fp32", None),
    ),
    "attention": tuple(("attention", name, "bf16", 128) for name in ("triton", "gluon", "int8", "int8_fp8")),
    "passes": (("residual_norm", "triton", "bf16", None), ("qk_norm_rope", "triton", "bf16", None)),
}


def still_proved(part: str, device: torch.device, path: Path, selection: Selection = EVERYTHING) -> bool:
    """Tell whether valid proofs on disk already cover the selected kernels of this part."""
    if device.type != "cuda":
        return False
    has, table = capability(device), device_table(device)
    return all(
        standing(op, backend, dtype, has, head_dim=head_dim, table=table, path=path).proof is not None
        for op, backend, dtype, head_dim in TRUSTED[part]
        if selection.takes(op, backend, dtype)
    )


def proofs_of(findings: Iterable[Finding], device: torch.device) -> tuple[list[Proof], list[Key]]:
    """Return proofs for the kernels that were right in all cases, and the keys of the others."""
    groups: dict[Key, list[Finding]] = {}
    for finding in findings:
        groups.setdefault((*finding.kernel, capability(device)), []).append(finding)
    proofs, failed = [], []
    for key, found in groups.items():
        if not all(finding.right for finding in found):
            failed.append(key)
            continue
        if not all(finding.computed for finding in found):
            continue
        worst = max(found, key=lambda finding: finding.error / finding.limit)
        proof = Proof(
            *key,
            device=device_name(device),
            triton=triton_version() or "",
            torch=torch.__version__,
            error=worst.error,
            limit=worst.limit,
            cases=len(found),
            fingerprint=fingerprint(MODULES[key[0], key[1]]),
            date=now(),
            tiles=tiles_digest(*key[:4], device_table(device)),
        )
        proofs.append(proof)
    return proofs, failed


def wrong_kernels(findings: Sequence[Finding]) -> dict[Kernel, str]:
    """Return the first problem of each wrong kernel: one that is wrong in fp16 may be right in bf16."""
    wrong: dict[Kernel, str] = {}
    for finding in findings:
        if not finding.right:
            what = finding.problem or (
                f"error {finding.error:.1e}, limit {finding.limit:.0e}" if finding.same_bits else "two runs differ"
            )
            wrong.setdefault(finding.kernel, f"{finding.dtype} {finding.name}: {what}")
    return wrong

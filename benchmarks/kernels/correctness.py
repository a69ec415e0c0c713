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
from zoetrope.benchmarks.kernels.cases_gemm import fp8_cases, gemm_cases
from zoetrope.benchmarks.kernels.cases_permute import permute_cases
from zoetrope.benchmarks.kernels.cases_rows import (
    combine_cases,
    qk_norm_rope_cases,
    residual_norm_cases,
    router_logits_cases,
    routing_cases,
)
from zoetrope.benchmarks.provenance import now
from zoetrope.kernels.select.fingerprint import fingerprint
from zoetrope.kernels.select.proofs import MODULES, Key, Proof, proved, triton_version

SETS: dict[str, tuple[Callable[[KernelInputs], Iterator[KernelCase]], ...]] = {
    "grouped_gemm": (gemm_cases, fp8_cases),
    "moe": (router_logits_cases, routing_cases, permute_cases, combine_cases, dispatch_cases),
    "attention": (attention_cases,),
    "passes": (residual_norm_cases, qk_norm_rope_cases),
}


@dataclass(frozen=True)
class Finding:
    """The result of one case: its error (infinity if it raised), and whether two runs gave the same bits."""

    op: str
    backend: str
    dtype: str
    head_dim: int | None
    name: str
    error: float
    limit: float
    same_bits: bool
    problem: str = ""

    @property
    def right(self) -> bool:
        return self.error <= self.limit and self.same_bits and not self.problem

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "error": self.error if self.error != float("inf") else None, "right": self.right}


# The parts whose cases cover the kernels that a part uses, if not just its own.
NEEDED = {"moe": ("grouped_gemm", "moe"), "layer": ("grouped_gemm", "moe", "attention", "passes")}


def needed_by(parts: Iterable[str]) -> list[str]:
    """Return the parts whose kernels must be checked before these are timed."""
    needed = {one for part in parts for one in NEEDED.get(part, (part,))}
    return [part for part in SETS if part in needed]


def cases_of(part: str, inputs: KernelInputs) -> Iterator[KernelCase]:
    """Yield the cases of a part."""
    for make in SETS.get(part, ()):
        yield from make(inputs)


def examine(case: KernelCase) -> Finding:
    """Run a case twice, with outputs initialised to NaN."""
    facts = (case.op, case.backend, case.dtype, case.head_dim, case.name)
    try:
        with torch.inference_mode():
            with poisoned():
                first, second = case.run(), case.run()
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


# The kernels of each part that a bf16 layer needs, as keys of proofs.
TRUSTED = {
    "grouped_gemm": (("grouped_gemm", "triton", "bf16", None),),
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


def still_proved(part: str, device: torch.device, path: Path) -> bool:
    """Tell whether valid proofs on disk already cover this part."""
    if device.type != "cuda":
        return False
    has = capability(device)
    return all(
        proved(op, backend, dtype, has, head_dim=head_dim, path=path) is not None
        for op, backend, dtype, head_dim in TRUSTED[part]
    )


def proofs_of(findings: Iterable[Finding], device: torch.device) -> tuple[list[Proof], list[Key]]:
    """Return proofs for the kernels that were right in all cases, and the keys of the others."""
    groups: dict[Key, list[Finding]] = {}
    for finding in findings:
        key = (finding.op, finding.backend, finding.dtype, finding.head_dim, capability(device))
        groups.setdefault(key, []).append(finding)
    proofs, failed = [], []
    for key, found in groups.items():
        if not all(finding.right for finding in found):
            failed.append(key)
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
        )
        proofs.append(proof)
    return proofs, failed


def wrong_kernels(findings: Sequence[Finding]) -> dict[tuple[str, str], str]:
    """Return the first problem of each wrong (op, backend)."""
    wrong: dict[tuple[str, str], str] = {}
    for finding in findings:
        if not finding.right:
            what = finding.problem or (
                f"error {finding.error:.1e}, limit {finding.limit:.0e}" if finding.same_bits else "two runs differ"
            )
            wrong.setdefault((finding.op, finding.backend), f"{finding.dtype} {finding.name}: {what}")
    return wrong

"""Speed targets of the kernels, as ratios of times measured in one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoetrope.benchmarks.kernels.contenders import ContenderRow

COPY = "copy"  # the peer that stands for the measured copy bandwidth


@dataclass(frozen=True)
class SpeedTarget:
    """``ours`` must be at least ``ratio`` times as fast as the fastest available peer.

    Attributes:
        section, cases: the section of the rows, and a prefix of their cases.
    """

    name: str
    section: str
    ours: str
    peers: tuple[str, ...]
    ratio: float
    cases: str = ""


TARGETS: tuple[SpeedTarget, ...] = (
    SpeedTarget(
        "grouped GEMM bf16 / cuBLAS dense at equal FLOPs", "grouped_gemm", "triton bf16", ("cublas bf16",), 0.93
    ),
    SpeedTarget("grouped GEMM bf16 / torch grouped_mm", "grouped_gemm", "triton bf16", ("torch grouped_mm bf16",), 1.1),
    SpeedTarget("grouped GEMM fp8 / own bf16", "grouped_gemm", "triton fp8", ("triton bf16",), 1.6),
    SpeedTarget(
        "MoE FFN / torch grouped_mm + permutes",
        "moe",
        "triton",
        ("torch grouped_mm + permutes",),
        2.0,
        cases="ffn",
    ),
    SpeedTarget("attention bf16, Triton / cuDNN", "attention", "triton", ("sdpa cudnn",), 0.85, cases="self"),
    SpeedTarget(
        "attention bf16, Gluon / the better of FA3 and cuDNN",
        "attention",
        "gluon",
        ("flash_attn 3", "sdpa cudnn"),
        0.95,
        cases="self",
    ),
    SpeedTarget(
        "attention 8-bit incl. quantise / the better of FA3 and cuDNN, bf16",
        "attention",
        "int8",
        ("flash_attn 3", "sdpa cudnn"),
        1.3,
        cases="self",
    ),
    SpeedTarget(
        "attention 8-bit, fp8 values, incl. quantise / the better of FA3 and cuDNN, bf16",
        "attention",
        "int8_fp8",
        ("flash_attn 3", "sdpa cudnn"),
        1.3,
        cases="self",
    ),
    SpeedTarget("memory-bound pass / copy bandwidth", "passes", "triton", (COPY,), 0.90),
    SpeedTarget(
        "DiT layer bf16 / torch.compile'd diffusers layer", "layer", "ours", ("diffusers, torch.compile",), 1.15
    ),
)


@dataclass(frozen=True)
class TargetResult:
    """A target in one case. ``measured`` is None if a side is absent; ``note`` says which and why."""

    target: str
    case: str
    ratio: float
    peer: str | None
    measured: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Tell whether the target is met; None if it was not measured."""
        return None if self.measured is None else self.measured >= self.ratio

    def as_dict(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "case": self.case,
            "at_least": self.ratio,
            "peer": self.peer,
            "measured": self.measured,
            "met": self.met,
            "note": self.note,
        }


def judge(rows: Sequence[ContenderRow], targets: Iterable[SpeedTarget] = TARGETS) -> list[TargetResult]:
    """Evaluate every target in every case of its section."""
    copy = copy_bandwidth(rows)
    verdicts = []
    for target in targets:
        cases: dict[str, dict[str, ContenderRow]] = {}
        for row in rows:
            if row.section == target.section and row.case.startswith(target.cases):
                cases.setdefault(row.case, {})[row.name] = row
        verdicts += [_verdict(target, case, found, copy) for case, found in cases.items() if target.ours in found]
    return verdicts


def copy_bandwidth(rows: Iterable[ContenderRow]) -> float | None:
    """Return the measured bandwidth of a copy in TB/s, reads and writes counted."""
    return next((row.bandwidth for row in rows if row.section == "bounds" and row.name == COPY), None)


def _verdict(target: SpeedTarget, case: str, rows: Mapping[str, ContenderRow], copy: float | None) -> TargetResult:
    ours = rows[target.ours]
    if ours.seconds is None:
        return TargetResult(target.name, case, target.ratio, None, None, f"{target.ours} is absent: {ours.absent}")
    if target.peers == (COPY,):
        if copy is None or ours.bandwidth is None:
            return TargetResult(target.name, case, target.ratio, COPY, None, "no copy was measured")
        return TargetResult(target.name, case, target.ratio, COPY, ours.bandwidth / copy)
    present = [rows[peer] for peer in target.peers if peer in rows and rows[peer].seconds is not None]
    if not present:
        reasons = "; ".join(f"{peer}: {_why(rows, peer)}" for peer in target.peers)
        return TargetResult(target.name, case, target.ratio, None, None, f"no peer: {reasons}")
    peer = min(present, key=lambda row: row.seconds or 0.0)
    assert peer.seconds is not None
    missing = [name for name in target.peers if name not in {row.name for row in present}]
    note = "; ".join(f"without {name}: {_why(rows, name)}" for name in missing)
    return TargetResult(target.name, case, target.ratio, peer.name, peer.seconds / ours.seconds, note)


def _why(rows: Mapping[str, ContenderRow], name: str) -> str:
    row = rows.get(name)
    return "not run" if row is None else row.absent or "not run"

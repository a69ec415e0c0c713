"""What the kernels have to reach, as ratios of times measured in one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.kernels.contenders import Row

COPY = "copy"  # a peer that stands for the measured copy bandwidth


@dataclass(frozen=True)
class Target:
    """``ours`` must be at least ``ratio`` times as fast as the fastest of the peers that were there.

    Attributes:
        section, cases: the section of the rows, and how their cases begin.
    """

    name: str
    section: str
    ours: str
    peers: tuple[str, ...]
    ratio: float
    cases: str = ""


TARGETS: tuple[Target, ...] = (
    Target("grouped GEMM bf16 / cuBLAS dense at equal FLOPs", "grouped_gemm", "triton bf16", ("cublas bf16",), 0.93),
    Target("grouped GEMM bf16 / torch grouped_mm", "grouped_gemm", "triton bf16", ("torch grouped_mm bf16",), 1.1),
    Target("grouped GEMM fp8 / own bf16", "grouped_gemm", "triton fp8", ("triton bf16",), 1.6),
    Target(
        "MoE FFN / torch grouped_mm + permutes",
        "moe",
        "triton",
        ("torch grouped_mm + permutes",),
        2.0,
        cases="ffn",
    ),
    Target("attention bf16, Triton / cuDNN", "attention", "triton", ("sdpa cudnn",), 0.85, cases="self"),
    Target(
        "attention bf16, Gluon / the better of FA3 and cuDNN",
        "attention",
        "gluon",
        ("flash_attn 3", "sdpa cudnn"),
        0.95,
        cases="self",
    ),
    Target(
        "attention 8-bit incl. quantise / the better of FA3 and cuDNN, bf16",
        "attention",
        "int8",
        ("flash_attn 3", "sdpa cudnn"),
        1.3,
        cases="self",
    ),
    Target(
        "attention 8-bit, fp8 values, incl. quantise / the better of FA3 and cuDNN, bf16",
        "attention",
        "int8_fp8",
        ("flash_attn 3", "sdpa cudnn"),
        1.3,
        cases="self",
    ),
    Target("memory-bound pass / copy bandwidth", "passes", "triton", (COPY,), 0.90),
    Target("DiT layer bf16 / torch.compile'd diffusers layer", "layer", "ours", ("diffusers, torch.compile",), 1.15),
)


@dataclass(frozen=True)
class Verdict:
    """A target in one case; ``measured`` is None where a side is absent, and then ``note`` says which and why."""

    target: str
    case: str
    ratio: float
    peer: str | None
    measured: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
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


def judge(rows: Sequence[Row], targets: Iterable[Target] = TARGETS) -> list[Verdict]:
    """Every target in every case of its section that was run."""
    copy = copy_bandwidth(rows)
    verdicts = []
    for target in targets:
        cases: dict[str, dict[str, Row]] = {}
        for row in rows:
            if row.section == target.section and row.case.startswith(target.cases):
                cases.setdefault(row.case, {})[row.name] = row
        verdicts += [_verdict(target, case, found, copy) for case, found in cases.items() if target.ours in found]
    return verdicts


def copy_bandwidth(rows: Iterable[Row]) -> float | None:
    """Terabytes a second of the device's own copy, both ways counted."""
    return next((row.bandwidth for row in rows if row.section == "bounds" and row.name == COPY), None)


def _verdict(target: Target, case: str, rows: Mapping[str, Row], copy: float | None) -> Verdict:
    ours = rows[target.ours]
    if ours.seconds is None:
        return Verdict(target.name, case, target.ratio, None, None, f"{target.ours} is absent: {ours.absent}")
    if target.peers == (COPY,):
        if copy is None or ours.bandwidth is None:
            return Verdict(target.name, case, target.ratio, COPY, None, "no copy was measured")
        return Verdict(target.name, case, target.ratio, COPY, ours.bandwidth / copy)
    present = [rows[peer] for peer in target.peers if peer in rows and rows[peer].seconds is not None]
    if not present:
        reasons = "; ".join(f"{peer}: {_why(rows, peer)}" for peer in target.peers)
        return Verdict(target.name, case, target.ratio, None, None, f"no peer: {reasons}")
    peer = min(present, key=lambda row: row.seconds or 0.0)
    assert peer.seconds is not None
    missing = [name for name in target.peers if name not in {row.name for row in present}]
    note = "; ".join(f"without {name}: {_why(rows, name)}" for name in missing)
    return Verdict(target.name, case, target.ratio, peer.name, peer.seconds / ours.seconds, note)


def _why(rows: Mapping[str, Row], name: str) -> str:
    row = rows.get(name)
    return "not run" if row is None else row.absent or "not run"

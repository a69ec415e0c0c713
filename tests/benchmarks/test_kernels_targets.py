"""Targets as ratios of one run: which peer counts, what is met, and what is said where a side is absent."""

from __future__ import annotations

import pytest

from zoetrope.benchmarks.kernels.contenders import ContenderRow
from zoetrope.benchmarks.kernels.targets import COPY, TARGETS, SpeedTarget, judge

GLUON = SpeedTarget("gluon / best", "attention", "gluon", ("flash_attn 3", "sdpa cudnn"), 0.95, cases="self")


def row(
    name: str, seconds: float | None, *, section: str = "attention", case: str = "self", moved: float = 0.0
) -> ContenderRow:
    return ContenderRow(section, case, name, seconds, moved=moved, absent=None if seconds else "not installed")


@pytest.mark.parametrize(
    "flash, cudnn, measured, peer",
    [(2.0, 1.0, 0.5, "sdpa cudnn"), (1.0, 2.0, 0.5, "flash_attn 3"), (None, 1.9, 0.95, "sdpa cudnn")],
)
def test_the_fastest_peer_that_is_there_counts(flash: float | None, cudnn: float, measured: float, peer: str) -> None:
    (verdict,) = judge([row("gluon", 2.0), row("flash_attn 3", flash), row("sdpa cudnn", cudnn)], [GLUON])
    assert verdict.measured == pytest.approx(measured) and verdict.peer == peer
    assert verdict.met == (measured >= 0.95)
    assert ("without flash_attn 3: not installed" in verdict.note) == (flash is None)


def test_without_any_peer_there_is_no_ratio() -> None:
    (verdict,) = judge([row("gluon", 2.0), row("sdpa cudnn", None)], [GLUON])
    assert verdict.measured is None and verdict.met is None
    assert "flash_attn 3: not run" in verdict.note and "sdpa cudnn: not installed" in verdict.note


def test_an_absent_kernel_has_no_ratio() -> None:
    (verdict,) = judge([row("gluon", None), row("sdpa cudnn", 1.0)], [GLUON])
    assert verdict.met is None and "gluon is absent" in verdict.note


def test_each_case_is_judged_by_itself_and_other_cases_are_left_out() -> None:
    rows = [row(name, 1.0, case=case) for case in ("self a", "self b", "cross") for name in ("gluon", "sdpa cudnn")]
    assert [verdict.case for verdict in judge(rows, [GLUON])] == ["self a", "self b"]


def test_passes_are_held_against_the_copy() -> None:
    target = SpeedTarget("pass", "passes", "triton", (COPY,), 0.9)
    copy = row(COPY, 1.0, section="bounds", moved=3e12)
    mine = row("triton", 2.0, section="passes", moved=5.7e12)
    (verdict,) = judge([copy, mine], [target])
    assert verdict.measured == pytest.approx(0.95) and verdict.met
    (verdict,) = judge([mine], [target])
    assert verdict.measured is None and "no copy" in verdict.note


def test_every_target_of_the_project_is_there() -> None:
    ratios = {target.name: target.ratio for target in TARGETS}
    assert ratios["grouped GEMM bf16 / cuBLAS dense at equal FLOPs"] == 0.93
    assert ratios["grouped GEMM bf16 / torch grouped_mm"] == 1.1
    assert ratios["MoE FFN / torch grouped_mm + permutes"] == 2.0
    assert ratios["attention bf16, Triton / cuDNN"] == 0.85
    assert ratios["attention bf16, Gluon / the better of FA3 and cuDNN"] == 0.95
    assert ratios["attention 8-bit incl. quantise / the better of FA3 and cuDNN, bf16"] == 1.3
    assert ratios["grouped GEMM fp8 / own bf16"] == 1.6
    assert ratios["memory-bound pass / copy bandwidth"] == 0.90
    assert ratios["DiT layer bf16 / torch.compile'd diffusers layer"] == 1.15

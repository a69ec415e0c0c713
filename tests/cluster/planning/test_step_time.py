"""The cost model of a step: what its parts are, how they scale, and what measurements do to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zoetrope.cluster.planning.calibration import check_steps, rates_of
from zoetrope.cluster.planning.expert_traffic import balanced, ranks_of_token
from zoetrope.cluster.planning.hardware import HARDWARE, INFINIBAND, NVLINK, hardware
from zoetrope.cluster.planning.rates import Rates, roofline
from zoetrope.cluster.planning.step_time import IMBALANCE, StepTime, step_seconds, step_time
from zoetrope.model.families import PRESETS
from zoetrope.model.families.config import MoEConfig

MOE = PRESETS["wan2.7-27b"].config
WIDE = PRESETS["wan2.7-27b-wide"].config
DENSE = PRESETS["wan2.1-t2v-14b"].config
H100 = roofline(hardware("h100"))
TOKENS = 32_760


def test_one_rank_computes_and_sends_nothing() -> None:
    time = step_time(DENSE, [TOKENS], H100)
    cost = DENSE.forward_cost(TOKENS)
    assert time.products * H100.products + time.attention * H100.attention == pytest.approx(cost.total, rel=1e-9)
    assert time.attention * H100.attention == pytest.approx(cost.attention, rel=0.02)
    assert (time.experts, time.all_to_all, time.gather, time.idle, time.traffic) == (0, 0, 0, 0, ())
    assert time.total == sum(time.parts().values()) == step_seconds(DENSE, [TOKENS], H100)


def test_experts_are_told_from_other_products() -> None:
    time, cost = step_time(MOE, [TOKENS], H100), MOE.forward_cost(TOKENS)
    assert time.experts * H100.experts == MOE.expert_flops(TOKENS)
    assert MOE.expert_flops(1) == 28 * 8 * 4 * 3072 * 1792
    assert DENSE.expert_flops(TOKENS) == 0
    assert time.products * H100.products == pytest.approx(cost.products - MOE.expert_flops(TOKENS), rel=0.02)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_divide_the_work_and_pay_for_it_on_the_wire(ranks: int) -> None:
    one, many = (step_time(MOE, [TOKENS, TOKENS], H100, sequence_ranks=n) for n in (1, ranks))
    assert many.attention == pytest.approx(one.attention / ranks, rel=1e-3)
    assert many.experts == pytest.approx(one.experts / ranks, rel=1e-3)
    assert one.total / ranks < many.total < one.total
    away, own = (ranks - 1) / ranks, 2 * TOKENS / ranks
    heads, rows, output = many.traffic
    assert heads.bytes == pytest.approx(30 * 4 * own * 3072 * 2 * away)
    # Of the 8 experts of a token each rank has as many: it gets the token once, and 12 bytes about each of them.
    assert rows.bytes == pytest.approx(28 * own * away * (2 * ranks * 3072 * 2 + 8 * 12))
    assert output.bytes == pytest.approx(own * (ranks - 1) * 4 * 48 * 2)
    assert many.sent("NVLink") == heads.bytes + rows.bytes + output.bytes
    assert many.all_to_all + many.hidden > (heads.bytes + rows.bytes) / NVLINK.bandwidth


def test_a_token_is_sent_once_to_each_rank_that_has_its_experts() -> None:
    assert [ranks_of_token(MOE, n) for n in (1, 2, 8)] == [1, 2, 8]
    assert ranks_of_token(MOE, 16) == pytest.approx(16 * 0.5)  # half of a group's replicas each
    assert ranks_of_token(WIDE, 8) == 8  # each has a whole group, and part of another
    assert ranks_of_token(DENSE, 8) == 0
    free = MOE.model_copy(update={"moe": MoEConfig(layers=(0,), num_experts=4, top_k=2, expert_dim=16, shared_dim=0)})
    assert ranks_of_token(free, 4) == pytest.approx(2)  # each expert on a rank of its own
    assert ranks_of_token(free, 2) == pytest.approx(2 * (1 - 1 / 6))  # one pair of six leaves a rank out


def test_all_to_all_at_the_arithmetic_of_the_reference() -> None:
    """75.6k tokens of width 5120 over 8 ranks, two rows a token: 169 MB each way a layer, 0.42 and 3.8 ms."""
    sent = 75_600 / 8 * 2 * 5120 * 2 * 7 / 8
    assert sent == pytest.approx(169e6, rel=0.01)
    assert sent / (NVLINK.bandwidth * NVLINK.fraction) == pytest.approx(0.42e-3, rel=0.02)
    assert sent / (INFINIBAND.bandwidth * INFINIBAND.fraction) == pytest.approx(3.8e-3, rel=0.02)


def test_guidance_groups_take_a_branch_each() -> None:
    alone, pair = step_time(DENSE, [TOKENS], H100), step_time(DENSE, [TOKENS] * 2, H100, cfg_groups=2)
    assert pair.compute == pytest.approx(alone.compute)
    assert pair.idle == pytest.approx(0, abs=1e-12)
    (velocities,) = pair.traffic
    assert velocities.bytes == TOKENS * 4 * 16 * 2
    far = step_time(DENSE, [TOKENS] * 2, H100, cfg_groups=2, apart=True)
    assert far.sent("InfiniBand") == velocities.bytes
    assert pair.gather < far.gather < 10 * pair.gather


def test_a_group_with_less_to_do_waits() -> None:
    time = step_time(DENSE, [TOKENS], H100, cfg_groups=2)
    assert time.idle == pytest.approx(time.compute, rel=1e-6)
    uneven = step_time(DENSE, [TOKENS, TOKENS, 2 * TOKENS], H100, cfg_groups=2)
    assert 0 < uneven.idle < 0.3 * uneven.total
    assert uneven.total == pytest.approx(step_time(DENSE, [2 * TOKENS], H100).total + uneven.gather, rel=1e-6)


def test_routing_that_nothing_balances_is_assumed_to_be_uneven() -> None:
    assert balanced(MOE, 8)
    assert balanced(WIDE, 4)
    assert not balanced(WIDE, 8)  # 12 groups of experts
    free = MOE.model_copy(update={"moe": MOE.moe.model_copy(update={"router": "sigmoid"}) if MOE.moe else None})
    assert balanced(free, 1)
    assert not balanced(free, 8)
    even, uneven = (step_time(config, [TOKENS], H100, sequence_ranks=8) for config in (MOE, free))
    assert even.idle == 0
    assert uneven.idle > (IMBALANCE - 1) * uneven.experts
    assert uneven.experts == pytest.approx(even.experts)
    assert uneven.compute == pytest.approx(even.compute, rel=0.02)
    assert uneven.traffic[1].bytes < even.traffic[1].bytes, "two of a token's experts may share a rank"


def test_hint_blocks_cost_more() -> None:
    vace = step_time(PRESETS["wan2.1-vace-14b"].config, [TOKENS], H100, sequence_ranks=8)
    plain = step_time(DENSE, [TOKENS], H100, sequence_ranks=8)
    assert vace.attention / plain.attention == pytest.approx(48 / 40, rel=0.01)
    assert vace.traffic[0].bytes / plain.traffic[0].bytes == pytest.approx(48 / 40)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"sequences is \[\]"):
        step_time(DENSE, [], H100)
    with pytest.raises(ValueError, match=r"sequences is \[5, 0\]"):
        step_time(DENSE, [5, 0], H100)
    with pytest.raises(ValueError, match="sequence_ranks is 0"):
        step_time(DENSE, [5], H100, sequence_ranks=0)
    with pytest.raises(ValueError, match="gpu is 'b200': it must be one of h100, h200, a100, l40s, rtx4090, cpu"):
        hardware("b200")


def test_every_figure_has_a_source() -> None:
    for kind in HARDWARE.values():
        assert "datasheet" in kind.source or "assumed" in kind.source
        rates = roofline(kind)
        assert rates.origin == "roofline"
        assert "assumed" in rates.notes[0]
        assert 0 < rates.attention < kind.peak


def write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


def kernel_row(section: str, case: str, name: str, rate: float) -> dict[str, Any]:
    return {"section": section, "case": case, "name": name, "seconds": 2.0, "flops": 2 * rate, "moved": 1.0}


KERNEL_ROWS = [
    kernel_row("grouped_gemm", "27b up, 8192 tokens", "triton bf16", 500e12),
    kernel_row("grouped_gemm", "27b down, 8192 tokens", "triton bf16", 520e12),
    kernel_row("grouped_gemm", "14b up, 8192 tokens", "cublas bf16", 700e12),
    kernel_row("attention", "self 27b, 8192 on 8192", "triton", 400e12),
    kernel_row("attention", "self 27b, 8192 on 8192", "gluon", 600e12),
    kernel_row("attention", "cross 27b, 8192 on 512", "gluon", 1e12),
    {"section": "attention", "case": "self 14b, 8192 on 8192", "name": "gluon", "seconds": None, "absent": "it failed"},
]


def test_measured_kernels_replace_what_is_assumed(tmp_path: Path) -> None:
    write(tmp_path / "kernels" / "h100.json", {"runs": {"x": {"device": "NVIDIA H100 80GB HBM3"}}, "rows": KERNEL_ROWS})
    rates = rates_of(hardware("h100"), tmp_path)
    assert (rates.origin, rates.correction) == ("calibrated", 1.0)
    assert (rates.experts, rates.products, rates.attention) == (510e12, 700e12, 600e12)
    assert rates.passes == H100.passes
    assert rates.notes[0].startswith("measured: products 700 TFLOP/s, experts 510 TFLOP/s, attention 600 TFLOP/s (h100")
    assert rates.notes[1] == "assumed: passes 2.68 TB/s"
    assert rates_of(hardware("h200"), tmp_path) == roofline(hardware("h200"))


def test_without_results_and_from_a_cpu_it_stays_a_roofline(tmp_path: Path) -> None:
    assert rates_of(hardware("h100"), tmp_path / "none") == H100
    write(tmp_path / "kernels" / "cpu-smoke-test.json", {"runs": {"x": {"device": "x86_64 CPU"}}, "rows": KERNEL_ROWS})
    write(tmp_path / "step.json", {"device": "x86_64 CPU", "rows": [step_row("nano", 300, 1.0)]})
    assert rates_of(hardware("h100"), tmp_path) == H100
    assert rates_of(hardware("cpu"), tmp_path) == roofline(hardware("cpu"))


def step_row(preset: str, tokens: int, seconds: float) -> dict[str, Any]:
    return {"preset": preset, "size": "480p", "tokens": tokens, "forwards": 2, "seconds": seconds}


def test_measured_steps_are_compared_and_correct_later_predictions(tmp_path: Path) -> None:
    foretold = step_seconds(MOE, [12_090] * 2, H100)
    rows = [step_row("wan2.7-27b", 12_090, 1.5 * foretold), step_row("another", 5, 1.0)]
    write(tmp_path / "step.json", {"device": "NVIDIA H100 80GB HBM3", "rows": rows})
    (check,) = check_steps(hardware("h100"), tmp_path)
    assert (check.preset, check.tokens, check.where) == ("wan2.7-27b", 12_090, "step.json")
    assert check.ratio == pytest.approx(1 / 1.5)
    rates = rates_of(hardware("h100"), tmp_path)
    assert rates.origin == "calibrated"
    assert rates.correction == pytest.approx(1.5)
    assert step_seconds(MOE, [12_090] * 2, rates) == pytest.approx(1.5 * foretold)
    assert check_steps(hardware("h100"), tmp_path) == [check]  # never against its own correction


def test_a_broken_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "step.json").write_text("{")
    with pytest.raises(ValueError, match=r"step\.json: cannot be read as JSON"):
        rates_of(hardware("h100"), tmp_path)
    (tmp_path / "step.json").write_text("[]")
    with pytest.raises(ValueError, match=r"step\.json: holds no JSON object"):
        rates_of(hardware("h100"), tmp_path)


def test_asking_is_cheap_and_changes_nothing() -> None:
    """A watchdog asks before every step."""
    before: Rates = H100
    times: list[StepTime] = [step_time(MOE, [TOKENS] * 8, H100, sequence_ranks=4, cfg_groups=2) for _ in range(200)]
    assert all(time == times[0] for time in times)
    assert before == H100

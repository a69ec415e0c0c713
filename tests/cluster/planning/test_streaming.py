"""What streaming costs: the break-even tokens, and a pass in which copies run beside the computation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zoetrope.cluster.planning.hardware import hardware
from zoetrope.cluster.planning.rates import Rates, roofline
from zoetrope.cluster.planning.residence import layers_of
from zoetrope.cluster.planning.streaming import break_even_tokens, pass_seconds
from zoetrope.model.families import PRESETS

PCIE_4, PCIE_5 = 22e9, 45e9
SUSTAINED = {  # TFLOP/s assumed of products and attention, per kind of GPU and form of the weights
    "H100 bf16": (620, 600),
    "H100 fp8": (1150, 800),
    "A100 bf16": (250, 200),
    "4090 bf16": (150, 150),
    "4090 fp8": (280, 220),
}


def rates(name: str) -> Rates:
    products, attention = (1e12 * rate for rate in SUSTAINED[name])
    return replace(roofline(hardware("h100")), products=products, experts=products, attention=attention)


@pytest.mark.parametrize(
    ("model", "megabytes", "name", "thousands"),
    [
        ("wan2.1-t2v-14b", 702.5, "H100 bf16", (19.6, 11.5)),
        ("wan2.1-t2v-14b", 351, "H100 fp8", (16.8, 10.0)),
        ("wan2.1-t2v-14b", 702.5, "A100 bf16", (9.5, 5.3)),
        ("wan2.1-t2v-14b", 702.5, "4090 bf16", (6.5, 3.5)),
        ("wan2.1-t2v-14b", 351, "4090 fp8", (5.9, 3.2)),
        ("wan2.2-ti2v-5b", 327, "H100 bf16", (17.9, 10.6)),
        ("wan2.1-t2v-1.3b", 93, "H100 bf16", (14.8, 9.1)),
    ],
)
def test_break_even_tokens_are_those_of_the_table(
    model: str, megabytes: float, name: str, thousands: tuple[float, float]
) -> None:
    config = PRESETS[model].config
    for bandwidth, expected in zip((PCIE_4, PCIE_5), thousands, strict=True):
        found = break_even_tokens(config, 1e6 * megabytes, bandwidth, rates(name))
        assert found / 1000 == pytest.approx(expected, abs=0.051)
        dim, hidden, rate = config.dim, config.ffn_dim, rates(name)
        linear = 2 * found * (6 * dim**2 + 2 * dim * hidden) / rate.products
        assert linear + 4 * found**2 * dim / rate.attention == pytest.approx(1e6 * megabytes / bandwidth)


def test_a_block_s_bytes_are_those_of_the_table() -> None:
    for model, megabytes, eight in (("wan2.1-t2v-14b", 702.5, 351), ("wan2.2-ti2v-5b", 327, 164)):
        config = PRESETS[model].config
        for form, expected in (("none", megabytes), ("fp8", eight)):
            sizes, _ = layers_of(config, form)
            assert sizes[10] / 1e6 == pytest.approx(expected, rel=0.003)
        whole, _ = layers_of(config, "none")
        assert layers_of(config, "fp8")[0][0] == whole[0], "the outer blocks stay as they are"


def test_slower_steps_hide_more() -> None:
    config, measured = PRESETS["wan2.1-t2v-14b"].config, rates("H100 bf16")
    slow = replace(measured, correction=2.0)
    assert break_even_tokens(config, 1e9, PCIE_4, slow) < break_even_tokens(config, 1e9, PCIE_4, measured)


def test_experts_that_a_token_does_not_use_are_copied_all_the_same() -> None:
    config, dense = PRESETS["wan2.7-27b"].config, PRESETS["wan2.2-ti2v-5b"].config
    many, few = layers_of(config, "none")[0][10], layers_of(dense, "none")[0][10]
    assert break_even_tokens(config, many, PCIE_4, rates("H100 bf16")) > break_even_tokens(
        dense, few, PCIE_4, rates("H100 bf16")
    )
    halves = layers_of(config, "none", 2)[0][10]
    assert halves < 0.6 * many, "each of two ranks has half of the experts"


@pytest.mark.parametrize(
    ("compute", "copy", "expected"),
    [
        ([2.0] * 6, [0.0] * 6, 12.0),  # all resident
        ([2.0] * 6, [1.0] * 6, 12.0),  # hidden
        ([1.0] * 6, [3.0] * 6, 18.0),  # the link is the limit
        ([1.0] * 6, [2.0, 0.0] * 3, 6.0),  # every second stays: two have the time of a copy each
        ([1.0] * 6, [3.0, 0.0] * 3, 9.0),
        ([1.0] * 4, [2.0, 2.0, 0.0, 0.0], 4.0),  # the two never leave their slabs' turn, but are copied in the others'
    ],
)
def test_a_pass_takes_the_longer_of_copies_and_computation(
    compute: list[float], copy: list[float], expected: float
) -> None:
    assert pass_seconds(compute, copy) == pytest.approx(expected)

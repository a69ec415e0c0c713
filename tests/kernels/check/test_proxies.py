"""Products that read asynchronous copies without a proxy fence are found."""

from __future__ import annotations

import pytest

from zoetrope.kernels.check.compile_table import Figures, broken_rules
from zoetrope.kernels.check.proxies import unfenced

COPY = "cp.async.cg.shared.global [ %r15 + 0 ], [ %rd43 + 0 ], 0x10, %r67;"
SCALAR = "cp.async.ca.shared.global [ %r15 + 0 ], [ %rd43 + 0 ], 0x4, %r67;"
WAIT = "cp.async.wait_group 0;"
BARRIER = "bar.sync 0;"
FENCE = "fence.proxy.async.shared::cta;"
PRODUCT = "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, p, 1, 1, 0, 0;"
LABEL, BACK = "$L__BB0_1:", "@%p1 bra $L__BB0_1;"


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        pytest.param([COPY, WAIT, BARRIER, PRODUCT], [4], id="no fence"),
        pytest.param([COPY, WAIT, BARRIER, FENCE, PRODUCT, PRODUCT], [], id="after the barrier"),
        pytest.param([COPY, WAIT, FENCE, BARRIER, PRODUCT], [], id="before the barrier"),
        pytest.param([COPY, FENCE, WAIT, BARRIER, PRODUCT], [5], id="too early: nothing has arrived"),
        pytest.param([COPY, WAIT, FENCE, PRODUCT, COPY, WAIT, PRODUCT], [7], id="only for the first copy"),
        pytest.param([SCALAR, WAIT, BARRIER, PRODUCT], [], id="scalars go to registers"),
        pytest.param([PRODUCT, BARRIER], [], id="no copy"),
        pytest.param([COPY, LABEL, WAIT, BARRIER, PRODUCT, COPY, BACK, WAIT], [5], id="pipelined"),
        pytest.param([COPY, LABEL, WAIT, FENCE, PRODUCT, COPY, BACK, WAIT], [], id="pipelined, fenced"),
        pytest.param([COPY, WAIT, FENCE, LABEL, PRODUCT, COPY, WAIT, BACK], [5], id="the fence before the loop only"),
    ],
)
def test_products_without_a_fence(code: list[str], wrong: list[int]) -> None:
    assert unfenced("\n".join(code)) == wrong


def test_it_is_a_rule() -> None:
    good = Figures(200, 1000, 0, 0, 0, 4, 0, 0, 128)
    assert broken_rules(good, wgmma=True) == []
    assert "fence.proxy.async" in broken_rules(Figures(200, 1000, 0, 0, 0, 4, 0, 0, 128, unfenced=2), wgmma=True)[0]

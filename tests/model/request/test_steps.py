"""Which steps run the network, with which branches: the counts behind prices and plans."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.model.request.specs import SegmentSpec
from zoetrope.model.request.steps import (
    branch_count,
    computed_steps,
    computes,
    forwards,
    guided,
    step_after,
    step_before,
)

PLAIN = SegmentSpec("s", (16, 1, 4, 4), 10, 3.0, 0)
FAST = replace(PLAIN, step_mask="##..#...##")


def test_steps_of_a_mask() -> None:
    assert [step for step in range(10) if computes(FAST, step)] == [0, 1, 4, 8, 9]
    assert [step_after(FAST, step) for step in (0, 1, 4, 8, 9)] == [1, 4, 8, 9, 10]
    assert [step_before(FAST, step) for step in (1, 4, 8, 9, 10)] == [0, 1, 4, 8, 9]
    assert (forwards(FAST), forwards(FAST, 4), computed_steps(FAST), computed_steps(FAST, 5)) == (10, 6, 5, 2)
    assert (forwards(PLAIN), step_after(PLAIN, 3), step_before(PLAIN, 3), step_before(PLAIN, 0)) == (20, 4, 2, 0)


@given(st.text("#.", min_size=1, max_size=20).map(lambda text: f"#{text}#"))
def test_back_and_forth(mask: str) -> None:
    spec = replace(PLAIN, steps=len(mask), step_mask=mask)
    step, seen = 0, 0
    while step < spec.steps:
        assert computes(spec, step)
        assert step_before(spec, step_after(spec, step)) == step
        step, seen = step_after(spec, step), seen + 1
    assert seen == computed_steps(spec) == mask.count("#")


@pytest.mark.parametrize(
    ("steps", "start", "end", "inside"),
    [
        (10, 0.0, 1.0, range(10)),
        (10, 0.0, 0.5, range(5)),
        (10, 0.2, 0.8, range(2, 8)),
        (30, 0.1, 0.7, range(3, 21)),  # 0.7 * 30 is a little less than 21, 0.1 * 30 a little more than 3
        (7, 0.3, 0.5, (3,)),  # 2.1 <= step < 3.5
        (4, 0.3, 0.45, ()),
    ],
)
def test_guidance_acts_from_its_start_on_and_before_its_end(
    steps: int, start: float, end: float, inside: range
) -> None:
    assert [step for step in range(steps) if guided(steps, start, end, step)] == [*inside]


def test_branches_without_guidance_are_not_counted() -> None:
    spec = replace(FAST, guidance_end=0.5)
    assert [branch_count(spec, step) for step in (0, 4, 5, 9, None)] == [2, 2, 1, 1, 2]
    assert forwards(spec) == 2 * 3 + 2
    assert branch_count(replace(spec, guidance=1.0)) == 1 and forwards(replace(spec, guidance=1.0)) == 5

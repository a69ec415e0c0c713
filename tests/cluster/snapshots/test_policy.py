"""When a segment gets a snapshot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.cluster.protocol.settings import EngineSettings
from zoetrope.cluster.snapshots.policy import due

DEFAULT = EngineSettings()


@pytest.mark.parametrize("settings", [DEFAULT, EngineSettings(snapshot_steps=1)])
def test_none_before_the_first_step_and_one_of_the_result(settings: EngineSettings) -> None:
    assert not due(0, 30, 1e6, 1.0, 0.0, settings)
    assert due(30, 30, 0.0, 1e-3, 1e3, settings)


def test_every_so_many_steps_when_it_is_set() -> None:
    settings = EngineSettings(snapshot_steps=4)
    assert [step for step in range(12) if due(step, 12, 0.0, 1.0, 100.0, settings)] == [4, 8]


@pytest.mark.parametrize("settings", [DEFAULT, EngineSettings(snapshot_steps=3)])
def test_after_each_of_few_steps(settings: EngineSettings) -> None:
    assert [step for step in range(5) if due(step, 4, 0.0, 1.0, 100.0, settings, few_steps=True)] == [1, 2, 3, 4]


def test_steps_that_pass_together_count_each() -> None:
    settings, taken, last = EngineSettings(snapshot_steps=4), [], 0
    for step in (1, 2, 5, 6, 7, 11, 12, 16):
        if due(step, 16, 0.0, 1.0, 100.0, settings, last_step=last):
            taken.append(step)
            last = step
    assert taken == [5, 11, 12, 16], "the first after each multiple of four"


@pytest.mark.parametrize(
    ("since", "step_seconds", "copy_seconds", "expected"),
    [
        (8.0, 1.0, 0.001, False),  # the next step ends after nine seconds
        (9.5, 1.0, 0.001, True),
        (30.0, 30.0, 0.01, True),  # a step is longer than ten seconds: after each
        (9.5, 1.0, 0.2, False),  # 0.2 seconds are affordable every twenty
        (20.0, 1.0, 0.2, True),
        (9.5, 1.0, 0.0, True),  # the first, when no copy has been measured
    ],
)
def test_as_often_as_it_is_wanted_and_affordable(
    since: float, step_seconds: float, copy_seconds: float, expected: bool
) -> None:
    assert due(5, 50, since, step_seconds, copy_seconds, DEFAULT) == expected


@given(
    step_seconds=st.floats(1e-3, 100),
    copy_seconds=st.floats(1e-6, 10),
    share=st.floats(1e-3, 0.5),
    seconds=st.floats(0, 60),
)
def test_copies_take_no_more_than_their_share_and_no_more_steps_are_lost_than_that_asks_for(
    step_seconds: float, copy_seconds: float, share: float, seconds: float
) -> None:
    settings = EngineSettings(snapshot_share=share, snapshot_seconds=seconds)
    now, last, copied, gaps = 0.0, 0.0, 0.0, []
    for step in range(1, 1000):
        now += step_seconds
        if due(step, 1000, now - last, step_seconds, copy_seconds, settings):
            gaps.append(now - last)
            now += copy_seconds
            copied += copy_seconds
            last = now
    assert copied <= share * now * (1 + 1e-6) + copy_seconds
    bound = max(seconds, copy_seconds / share + step_seconds, step_seconds)
    assert all(gap <= bound * (1 + 1e-6) for gap in gaps)
    assert now - last <= bound * (1 + 1e-6)

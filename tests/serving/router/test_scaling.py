"""How many engines are wanted, and how long a first one takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import UnfinishedWork
from zoetrope.serving.router.scaling import ColdStart, Scale, desired_engines, scales


@pytest.mark.parametrize(
    ("jobs", "seconds", "scale", "engines"),
    [
        (0, 0.0, Scale(0, 4), 0),
        (0, 0.0, Scale(1, 4), 1),
        (1, 0.0, Scale(0, 4), 1),
        (1, 299.0, Scale(0, 4), 1),
        (9, 301.0, Scale(0, 4), 2),
        (9, 1e6, Scale(0, 4), 4),
        (9, 2400.0, Scale(0, 4, gpus=8), 1),
        (9, 2401.0, Scale(0, 4, gpus=8), 2),
        (9, 1200.0, Scale(0, 4, target_seconds=600.0), 2),
        (9, 1200.0, Scale(0, 4, share=0.5), 2),
    ],
)
def test_the_work_is_to_be_done_in_the_target_time(jobs: int, seconds: float, scale: Scale, engines: int) -> None:
    assert desired_engines(UnfinishedWork(jobs, seconds), scale) == engines


@given(st.integers(0, 5), st.integers(0, 5), st.floats(0, 1e7), st.floats(0, 1e7), st.integers(0, 9))
def test_more_work_never_wants_fewer(least: int, more: int, seconds: float, extra: float, jobs: int) -> None:
    scale = Scale(least, least + more)
    few, many = (desired_engines(UnfinishedWork(jobs, s), scale) for s in (seconds, seconds + extra))
    assert scale.least <= few <= many <= scale.most


def test_the_settings_give_the_bounds() -> None:
    assert scales(Settings(engines=("3",))) == {"Engine": Scale(3, 3)}
    assert not scales(Settings(engines=("3",)))["Engine"].varies
    assert scales(Settings(min_engines=0)) == {"Engine": Scale(0, 1)}
    apart = scales(Settings(noise_experts="apart", engines=("2",), max_engines=4, ranks=2, scale_target_seconds=60.0))
    assert apart == dict.fromkeys(("Engine-high-noise", "Engine-low-noise"), Scale(2, 4, 2, 60.0, 0.5))
    assert scales(Settings(engines=("5",), max_engines=2)) == {"Engine": Scale(2, 2)}
    sizes = scales(Settings(engines=("4", "1x4"), min_engines=0))
    assert sizes == {"Engine": Scale(0, 4, 1, share=0.5), "Engine-4": Scale(0, 1, 4, share=0.5)}
    with pytest.raises(ValueError, match="least is 3 and most is 2"):
        scales(Settings(min_engines=3, max_engines=2))


def test_a_cold_start_is_measured_from_the_first_job_to_the_first_engine() -> None:
    start = ColdStart()
    start.see(0, True, 100.0)  # the service starts
    assert start.expected(110.0) is None, "nothing is known yet"
    start.see(1, True, 120.0)
    assert start.seconds == 20.0 and start.expected(121.0) is None, "an engine is there"
    start.see(0, False, 200.0)
    assert start.expected(201.0) == 20.0, "what a job would wait that came now"
    start.see(0, True, 300.0)
    start.see(0, True, 310.0)
    assert start.expected(312.0) == 8.0
    assert start.expected(400.0) == 0.0
    start.see(2, False, 330.0)
    assert start.seconds == 30.0

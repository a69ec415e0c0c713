"""The cost of a step: the roofline to begin with, then what was measured, whatever the engine."""

from __future__ import annotations

import json
import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoetrope.cluster.planning.hardware import hardware
from zoetrope.cluster.planning.rates import roofline
from zoetrope.cluster.planning.step_costs import Load, StepCosts, Streaming
from zoetrope.cluster.planning.step_time import step_time
from zoetrope.model.families import PRESETS
from zoetrope.model.families.nano import NANO_CONFIG

H100, CPU = roofline(hardware("h100")), roofline(hardware("cpu"))
DENSE = PRESETS["wan2.1-t2v-14b"].config
MOE = PRESETS["wan2.7-27b"].config

PRIORS = (StepCosts.prior(DENSE, H100), StepCosts.prior(MOE, H100, ranks=4))

loads = st.lists(st.builds(Load, st.integers(1, 40_000), st.integers(1, 3), st.integers(0, 1)), min_size=1, max_size=12)


def nano() -> StepCosts:
    return StepCosts.prior(NANO_CONFIG, CPU, text_tokens=32)


@pytest.mark.parametrize(("config", "ranks", "groups"), [(DENSE, 1, 1), (MOE, 8, 1), (MOE, 8, 2)])
def test_the_prior_is_the_roofline_and_a_little_for_the_rest(config: object, ranks: int, groups: int) -> None:
    costs = StepCosts.prior(config, H100, ranks=ranks, cfg_groups=groups)  # type: ignore[arg-type]
    for tokens, count in ((32_760, 1), (75_600, 1), (1_560, 4), (8_000, 2)):
        step = [Load(tokens, branches=2)] * count
        known = step_time(
            config,  # type: ignore[arg-type]
            [tokens] * (2 * count),
            H100,
            sequence_ranks=ranks // groups,
            cfg_groups=groups,
        ).total
        assert known < costs.seconds(step) < 1.05 * known + 0.015


def test_a_branch_alone_keeps_one_of_two_groups_waiting() -> None:
    costs = StepCosts.prior(DENSE, H100, ranks=2, cfg_groups=2)
    assert costs.seconds([Load(32_760, 1)]) == pytest.approx(costs.seconds([Load(32_760, 2)]))
    assert costs.seconds([Load(9_000, 1)] * 3) == pytest.approx(costs.seconds([Load(9_000, 4)]))


@given(loads)
@settings(deadline=None, max_examples=40)
def test_shares_add_up_and_follow_the_work(step: list[Load]) -> None:
    costs = PRIORS[0]
    shares = costs.shares(step)
    assert sum(shares) == pytest.approx(1)
    assert all(share > 0 for share in shares)
    by_work = sorted(zip(step, shares, strict=True), key=lambda one: one[1])
    for (smaller, _), (larger, _) in pairwise(by_work):
        dominates = smaller.tokens > larger.tokens and smaller.branches >= larger.branches
        assert not (dominates and smaller.adapters >= larger.adapters)


@given(loads, st.builds(Load, st.integers(1, 40_000), st.integers(1, 2)))
@settings(deadline=None, max_examples=30)
def test_more_work_takes_longer(step: list[Load], more: Load) -> None:
    for costs in PRIORS:
        assert costs.seconds([*step, more]) > costs.seconds(step)
        assert costs.seconds([]) == 0


def test_a_load_pays_for_its_part_of_what_a_step_costs_in_any_case() -> None:
    costs, load = nano(), Load(300, 2)
    alone, shared = costs.share_seconds(load), costs.share_seconds(load, company=4)
    assert alone == pytest.approx(costs.seconds([load]))
    assert shared == pytest.approx(costs.shares([load] * 4)[0] * costs.seconds([load] * 4), rel=1e-6)
    assert shared < alone


def truth(step: list[Load], scale: float = 1.0) -> float:
    """A machine unlike the prior: slow to start, fast in attention, slow in everything else."""
    seconds = 0.007
    for load in step:
        seconds += load.branches * (0.0016 + 41e-6 * load.tokens + 11e-9 * load.tokens**2)
        seconds += load.branches * (9e-6 * load.tokens if load.adapters else 0)
    return scale * seconds


@given(st.integers(0, 10_000), st.floats(0.05, 20))
@settings(deadline=None, max_examples=6)
def test_it_learns_any_machine_from_noisy_steps(seed: int, scale: float) -> None:
    rng, costs = random.Random(seed), nano()
    errors = []
    for _ in range(120):
        sizes = [rng.choice([60, 240, 300, 600, 1_500]) for _ in range(rng.randint(1, 5))]
        step = [Load(size, rng.randint(1, 2), int(rng.random() < 0.2)) for size in sizes]
        seconds = truth(step, scale) * rng.lognormvariate(0, 0.03)
        if rng.random() < 0.03:
            seconds *= 6  # a pause of the machine
        errors.append(abs(costs.seconds(step) / truth(step, scale) - 1))
        costs.observe(step, seconds)
    assert statistics.median(errors[50:]) < 0.03
    assert max(errors[80:]) < 0.2
    assert costs.error < 0.06, "as it says itself, from what is noisy"
    assert costs.seconds([Load(6_000, 2)]) == pytest.approx(truth([Load(6_000, 2)], scale), rel=0.25), "never seen"


def test_the_first_steps_already_scale_what_none_has_shown() -> None:
    costs = nano()
    unseen = [Load(1_000, 2)] * 3
    before = costs.seconds(unseen)
    costs.observe([Load(60)], costs.seconds([Load(60)]) / 5)
    assert costs.seconds(unseen) == pytest.approx(before / 5, rel=0.05)


def test_rare_large_steps_are_not_forgotten_over_many_small_ones() -> None:
    rng, costs = random.Random(3), nano()
    large = [Load(4_000, 2)]
    for _ in range(20):
        costs.observe(large, truth(large) * rng.lognormvariate(0, 0.02))
    for _ in range(1_000):
        small = [Load(rng.choice([60, 300]), 2)] * rng.randint(1, 4)
        costs.observe(small, truth(small) * rng.lognormvariate(0, 0.02))
    assert costs.seconds(large) == pytest.approx(truth(large), rel=0.08)


def test_a_machine_that_becomes_slower_is_followed() -> None:
    costs = nano()
    step = [Load(300, 2)] * 2
    for scale in (1.0, 2.0):
        for _ in range(80):
            costs.observe(step, truth(step, scale))
        assert costs.seconds(step) == pytest.approx(truth(step, scale), rel=0.05)


def test_what_is_no_measurement_teaches_nothing() -> None:
    costs = nano()
    before = costs.to_dict()
    for seconds in (0.0, -1.0, float("nan"), float("inf")):
        costs.observe([Load(60)], seconds)
    costs.observe([], 1.0)
    assert costs.to_dict() == before
    assert (costs.seen, costs.error) == (0, 0)


def test_streamed_weights_bound_a_step_from_below() -> None:
    copied = Streaming(share=0.5, seconds=2.0, tokens=0)
    costs, plain = StepCosts.prior(DENSE, H100, streaming=copied), StepCosts.prior(DENSE, H100)
    small, large = [Load(1_560)], [Load(75_600)]
    assert costs.seconds(small) == pytest.approx(2.0 + 0.5 * plain.seconds(small))
    assert costs.seconds(large) == pytest.approx(plain.seconds(large)), "hidden behind the work"
    parts = StepCosts.prior(DENSE, H100, streaming=Streaming(0.5, 2.0, tokens=1_560))
    assert parts.seconds([Load(1_560, 2)]) == pytest.approx(4.0 + 0.5 * plain.seconds([Load(1_560, 2)])), "two passes"
    costs.observe(small, 2.5)
    assert costs.seconds(large) == pytest.approx(plain.seconds(large)), "that says nothing of the network's speed"


def test_it_goes_through_json_and_learns_on() -> None:
    costs = nano()
    step = [Load(300, 2), Load(60, 1, 1)]
    for _ in range(30):
        costs.observe(step, truth(step))
    read = StepCosts.from_dict(json.loads(json.dumps(costs.to_dict())))
    assert read.seconds(step) == pytest.approx(costs.seconds(step), rel=1e-4)
    assert (read.ranks, read.seen) == (1, 30)
    assert read.error == pytest.approx(costs.error, rel=1e-4)
    read.observe(step, truth(step))
    assert read.seen == 31
    streamed = StepCosts.prior(DENSE, H100, streaming=Streaming(0.5, 2.0, 10))
    assert StepCosts.from_dict(streamed.to_dict()).seconds([Load(20)]) == pytest.approx(streamed.seconds([Load(20)]))


@pytest.mark.parametrize("change", [{"linear": [1.0]}, {"ranks": None}, {"factors": [1.0]}, {"attention": 3}])
def test_other_dictionaries_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^costs: "):
        StepCosts.from_dict({**nano().to_dict(), **change})
    with pytest.raises(ValueError, match="ranks is 3: it must be at least 1, and a multiple of cfg_groups, 2"):
        StepCosts.prior(DENSE, H100, ranks=3, cfg_groups=2)

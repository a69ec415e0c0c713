"""Factors of a sum, from measured sums."""

from __future__ import annotations

import random

import pytest

from zoetrope.cluster.planning.cost_fit import KINDS, CostFit


def learn(fit: CostFit, features: tuple[float, ...], measured: float) -> None:
    predicted = sum(factor * value for factor, value in zip(fit.factors, features, strict=True))
    fit.observe(features, measured, predicted)


def test_factors_are_found_and_never_negative() -> None:
    rng, fit = random.Random(1), CostFit(3)
    for _ in range(200):
        a, b, c = rng.uniform(1, 3), rng.uniform(0, 30), rng.uniform(0, 300)
        learn(fit, (a, b, c), 2 * a + 0.5 * b)
    assert fit.factors == pytest.approx([2, 0.5, 0], abs=0.05)
    assert min(fit.factors) >= 0


def test_one_observation_scales_all_parts_alike() -> None:
    fit = CostFit(3)
    learn(fit, (1.0, 2.0, 0.0), 30.0)
    assert fit.factors[2] == pytest.approx(10, rel=0.02)


def test_it_begins_where_it_is_told_to() -> None:
    fit = CostFit(2, [3.0, 1.0], seen=7)
    assert (fit.factors, fit.seen) == ([3.0, 1.0], 7)
    learn(fit, (1.0, 0.0), 6.0)
    assert fit.factors == pytest.approx([6.0, 2.0], rel=0.03)


def test_a_few_wild_values_change_little() -> None:
    fit = CostFit(1)
    for number in range(100):
        learn(fit, (1.0,), 50.0 if number % 25 == 24 else 2.0)
    assert fit.factors[0] == pytest.approx(2, rel=0.05)


def test_it_stays_bounded_whatever_it_sees() -> None:
    rng, fit = random.Random(2), CostFit(2)
    for _ in range(2_000):
        a, b = 10 ** rng.uniform(-6, 6), 10 ** rng.uniform(-6, 6)
        learn(fit, (a, b), a + 2 * b)
    assert len(fit._kinds) <= KINDS
    assert fit.factors == pytest.approx([1, 2], rel=0.02)

"""Which layers stay, and what that takes."""

from __future__ import annotations

import itertools

import pytest

from zoetrope.model.streaming.choice import split, spread


def test_layers_that_stay_are_spread_evenly() -> None:
    assert sorted(spread(12, 4)) == [1, 4, 7, 10]
    assert sorted(spread(12, 6)) == [1, 3, 5, 7, 9, 11]
    assert spread(12, 0) == frozenset() and spread(5, 5) == frozenset(range(5))
    for count in range(1, 60):
        for kept in range(1, count + 1):
            chosen = sorted(spread(count, kept))
            assert len(chosen) == kept and chosen[0] >= 0 and chosen[-1] < count
            gaps = {b - a for a, b in itertools.pairwise(chosen)}
            assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 3, 11, 12, 40])
def test_the_most_layers_that_fit_stay(count: int, networks: int) -> None:
    sizes = [100 + 7 * (number % 3) for number in range(count)]
    whole = networks * sum(sizes)
    before = -1
    for room in range(0, whole + 50, 25):
        made = split(sizes, room, networks)
        kept = len(made.resident)
        assert (count - kept) % 2 == 0, "the last and the first layer of a pass are in different slabs"
        assert kept >= before
        before = kept
        assert made.device_bytes <= room or kept == count % 2, "unless not even the fewest fit"
        assert made.device_bytes - sum(made.slabs) + made.host_bytes == whole
    assert split(sizes, whole, networks).device_bytes == whole and split(sizes, whole, networks).streamed == ()


def test_slabs_are_as_large_as_the_layers_that_take_turns_in_them() -> None:
    made = split([10, 500, 20, 400, 30, 300], 0)
    assert made.slabs == (30, 500) and made.device_bytes == 530
    assert split([5, 6, 7], 0).resident == {1} and split([5, 6, 7], 0).slabs == (5, 7)

"""Fits non-negative factors of a sum of parts to measured sums, as they come.

It minimises squared relative errors. Every kind of sum that was seen keeps a weight, so that the rare large ones are
not forgotten over the many small; old ones fade. What deviates much more than usual counts less (Huber).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

KEPT = 0.95  # of what a kind of sum weighs, after another of that kind
FADES = 0.998  # of what all others weigh, after each
KINDS = 32
PRIOR = 0.02  # weight of the belief that all factors are alike, in observations
HUBER = 3.0  # times the usual deviation, from which an observation counts less
LEAST, MOST = 0.02, 0.5  # bounds of the usual deviation
EAGER, PAUSE = 32, 8  # it is solved after each of the first observations, then after every eighth


@dataclass
class _Kind:
    """The normal equations of one kind of sum."""

    square: list[list[float]]
    right: list[float]
    weight: float = 0.0


@dataclass
class CostFit:
    """``factors`` of ``parts`` parts; ``start``: where they begin, 1 without one.

    Attributes:
        seen: observations so far.
    """

    parts: int
    start: Sequence[float] = ()
    seen: int = 0
    factors: list[float] = field(init=False)
    _kinds: dict[tuple[int, ...], _Kind] = field(default_factory=dict)
    _usual: float = MOST

    def __post_init__(self) -> None:
        self.factors = list(self.start) or [1.0] * self.parts

    def observe(self, features: Sequence[float], measured: float, predicted: float) -> None:
        """Learn that the parts, in units of the prior, made ``measured``; ``predicted`` is what the factors say."""
        deviation = abs(predicted - measured) / measured
        weight = min(1.0, HUBER * self._usual / deviation) if deviation > 0 else 1.0
        self._usual = min(MOST, max(LEAST, 0.9 * self._usual + 0.1 * min(deviation, 2 * self._usual)))
        row = [value / measured for value in features]
        kind = self._kind(features)
        for other in self._kinds.values():
            other.weight *= FADES
        _scale(kind, KEPT)
        for i, left in enumerate(row):
            kind.right[i] += weight * left
            for j, right in enumerate(row):
                kind.square[i][j] += weight * left * right
        kind.weight = 1.0
        self.seen += 1
        if self.seen <= EAGER or self.seen % PAUSE == 0:
            self._solve()

    def _kind(self, features: Sequence[float]) -> _Kind:
        """The statistics of sums like this one: as large within a factor of two, of the same parts. The oldest make
        room."""
        key = (math.frexp(sum(features))[1], *(value > 0 for value in features))
        kind = self._kinds.pop(key, None)
        if kind is None:
            kind = _Kind([[0.0] * self.parts for _ in range(self.parts)], [0.0] * self.parts)
            if len(self._kinds) >= KINDS:
                del self._kinds[next(iter(self._kinds))]
        self._kinds[key] = kind
        return kind

    def _solve(self) -> None:
        """Find the factors that fit best."""
        count = self.parts
        square = [[0.0] * count for _ in range(count)]
        right = [0.0] * count
        for kind in self._kinds.values():
            for i in range(count):
                right[i] += kind.weight * kind.right[i]
                line, own = square[i], kind.square[i]
                for j in range(count):
                    line[j] += kind.weight * own[j]
        start = list(self.start) or [1.0] * count
        whole = sum(start[i] * square[i][j] * start[j] for i in range(count) for j in range(count))
        scale = sum(start[i] * right[i] for i in range(count)) / whole if whole > 0 else 1.0
        for i in range(count):
            centre = max(scale * start[i], 1e-9)
            weight = PRIOR / max(centre, self.factors[i]) ** 2  # never far stronger than what was measured
            square[i][i] += weight
            right[i] += weight * centre
        self.factors = _solved(square, right)


def _solved(square: list[list[float]], right: list[float]) -> list[float]:
    """Minimise a positive definite quadratic form over vectors without negative entries (Lawson and Hanson)."""
    count = len(right)
    found, free = [0.0] * count, [False] * count
    for _ in range(3 * count):
        slopes = [right[i] - sum(square[i][j] * found[j] for j in range(count)) for i in range(count)]
        held = [i for i in range(count) if not free[i] and slopes[i] > 1e-9 * abs(right[i])]
        if not held:
            break
        free[max(held, key=lambda i: slopes[i] / math.sqrt(square[i][i]))] = True
        while True:
            chosen = [i for i in range(count) if free[i]]
            wanted = _eliminated([[square[i][j] for j in chosen] for i in chosen], [right[i] for i in chosen])
            below = [(i, value) for i, value in zip(chosen, wanted, strict=True) if value <= 0]
            if not below:
                break
            step = min(found[i] / (found[i] - value) if found[i] > value else 0.0 for i, value in below)
            for i, value in zip(chosen, wanted, strict=True):
                found[i] += step * (value - found[i])
            for i, _ in below:
                if found[i] <= 1e-12:
                    free[i], found[i] = False, 0.0
        found = [0.0] * count
        for i, value in zip(chosen, wanted, strict=True):
            found[i] = value
    return found


def _eliminated(square: list[list[float]], right: list[float]) -> list[float]:
    """Solve linear equations whose matrix is positive definite."""
    count = len(right)
    for i in range(count):
        for j in range(i + 1, count):
            factor = square[j][i] / square[i][i]
            for k in range(i, count):
                square[j][k] -= factor * square[i][k]
            right[j] -= factor * right[i]
    for i in reversed(range(count)):
        right[i] = (right[i] - sum(square[i][j] * right[j] for j in range(i + 1, count))) / square[i][i]
    return right


def _scale(kind: _Kind, by: float) -> None:
    for line in kind.square:
        line[:] = [value * by for value in line]
    kind.right[:] = [value * by for value in kind.right]

"""How long a step may take before its gang counts as hung."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zoetrope.cluster.planning.rates import Rates
from zoetrope.model.families.config import TransformerConfig

PATIENCE = 5.0  # times the forecast
MEMORY = 0.9  # share of what was observed that is kept after another step

Forecast = Callable[[int], float]  # tokens of a step -> seconds


def forecast(config: TransformerConfig, rates: Rates, sequence_ranks: int) -> Forecast:
    """Forecast steps by the cost model, for the worst case: all tokens in one sequence and one guidance group."""
    from zoetrope.cluster.planning.step_time import step_seconds

    def seconds(tokens: int) -> float:
        return step_seconds(config, [tokens], rates, sequence_ranks=sequence_ranks) if tokens > 0 else 0.0

    return seconds


@dataclass
class Watchdog:
    """Limits the duration of steps, and learns from those of a gang how far off the forecast is.

    A limit is `PATIENCE` times the forecast, scaled up by steps slower than it and never down, and at least ``least``
    seconds. The first step of a gang has ``first`` seconds more, to compile and warm up.
    """

    least: float
    first: float
    forecast: Forecast
    _fresh: bool = True
    _scale: float = 1.0  # seconds over forecast, of the slowest of the last steps
    _longest: float = 0.0  # forecast of the longest of them

    def restart(self) -> None:
        """Prepare for a new gang: its first step may compile and warm up again, on the same hardware."""
        self._fresh = True

    def saw(self, seconds: float, tokens: int) -> None:
        """Record a step that ended well. One slow step raises the limit at once, and for a while.

        Short steps say little about long ones, because most of their time is not in the forecast (launches, packing):
        they count as long as there have been no longer ones.
        """
        self._fresh = False
        expected = self.forecast(tokens)
        self._longest *= MEMORY
        if expected >= self._longest / 2:
            self._scale = max(seconds / expected, MEMORY * self._scale, 1.0)
            self._longest = max(self._longest, expected)

    def seconds(self, tokens: int) -> float:
        """Return the limit of the next step."""
        limit = PATIENCE * self._scale * self.forecast(tokens)
        return self.first + limit if self._fresh else max(self.least, limit)

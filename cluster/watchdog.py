"""How long a step may take before its gang counts as hung."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.rates import Rates
from model.config import TransformerConfig

PATIENCE = 5.0  # times what is foretold
MEMORY = 0.9  # of what was seen, kept after another step

Forecast = Callable[[int], float]  # tokens of a step -> seconds


def forecast(config: TransformerConfig, rates: Rates, sequence_ranks: int) -> Forecast:
    """From the cost model, for the worst case: all tokens are one sequence, and all in one guidance group."""
    from cluster.step_time import step_seconds  # which loads torch

    def seconds(tokens: int) -> float:
        return step_seconds(config, [tokens], rates, sequence_ranks=sequence_ranks) if tokens > 0 else 0.0

    return seconds


@dataclass
class Watchdog:
    """Foretells steps, and learns from those of a gang how far off that is.

    A limit is `PATIENCE` times the forecast, which steps slower than it raise and faster ones do not lower, and at
    least ``least`` seconds. The first step of a gang has ``first`` seconds more, to compile and warm up.
    """

    least: float
    first: float
    foretell: Forecast
    _fresh: bool = True
    _scale: float = 1.0  # seconds over forecast, of the slowest of the last steps
    _longest: float = 0.0  # forecast of the longest of them

    def restart(self) -> None:
        """A new gang: its first step may compile and warm up again. It runs on what the last one ran on."""
        self._fresh = True

    def saw(self, seconds: float, tokens: int) -> None:
        """A step ended well. One slow step raises the limit at once, and for a while.

        Short steps say little of long ones, for what they take is mostly not in the forecast (launches, packing): they
        count as long as there were no longer ones.
        """
        self._fresh = False
        foretold = self.foretell(tokens)
        self._longest *= MEMORY
        if foretold >= self._longest / 2:
            self._scale = max(seconds / foretold, MEMORY * self._scale, 1.0)
            self._longest = max(self._longest, foretold)

    def seconds(self, tokens: int) -> float:
        """The limit of the next step."""
        limit = PATIENCE * self._scale * self.foretell(tokens)
        return self.first + limit if self._fresh else max(self.least, limit)

"""How long a step may take before its gang counts as hung."""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 5.0  # times what the steps seen so far foretell
MEMORY = 0.9  # of the slowest pace, kept after another step


@dataclass
class Watchdog:
    """Learns from the steps of a gang: a limit is at least ``least`` seconds, ``first`` before any step was seen."""

    least: float
    first: float
    _pace: float = 0.0  # seconds a token, of the slowest of the last steps
    _largest: int = 0  # tokens of the largest step that this gang took

    def restart(self) -> None:
        """A new gang: its first step may compile and warm up again."""
        self._pace, self._largest = 0.0, 0

    def saw(self, seconds: float, tokens: int) -> None:
        """A step ended well. One slow step raises the limit at once, and for a while."""
        self._pace = max(seconds / tokens, MEMORY * self._pace)
        self._largest = max(self._largest, tokens)

    def seconds(self, tokens: int) -> float:
        """The limit of the next step. Beyond the largest one so far the pace may grow with the length (attention)."""
        if not self._largest:
            return self.first
        return max(self.least, PATIENCE * self._pace * tokens * max(1.0, tokens / self._largest))

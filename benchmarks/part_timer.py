"""Time the modules of a network, by the part of it that they are."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn


class PartTimer:
    """Measures the time inside modules, with events on a GPU or the clock on a CPU, until it is closed."""

    def __init__(
        self,
        parts: Mapping[str, Sequence[nn.Module]],
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Watch the modules of each part; ``clock``: of a CPU, in seconds."""
        self.cuda = device.type == "cuda"
        self.spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        self._clock = clock
        self._hooks = []
        for part, modules in parts.items():
            for module in modules:
                self._hooks.append(module.register_forward_pre_hook(self._enter(part)))
                self._hooks.append(module.register_forward_hook(self._leave(part)))

    def now(self) -> Any:
        """Return a point in time: an event on a GPU, seconds on a CPU."""
        if not self.cuda:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds between two points in time; on a GPU both must have passed."""
        return float(start.elapsed_time(end)) / 1000 if self.cuda else float(end - start)

    def take(self) -> dict[str, float]:
        """Return the seconds of each part since the last call."""
        found = {part: sum(self.seconds(*span) for span in spans) for part, spans in self.spans.items()}
        self.spans.clear()
        return found

    def close(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, part: str) -> Callable[..., None]:
        return lambda *_: self.spans[part].append((self.now(), None))

    def _leave(self, part: str) -> Callable[..., None]:
        def leave(*_: Any) -> None:
            start, _end = self.spans[part].pop()
            self.spans[part].append((start, self.now()))

        return leave

"""Predicts what a step of packed sequences takes on one kind of engine, and learns from the steps that it took.

A step costs something in any case, something for each sequence, and what its tokens compute: products and all that
grows with the packed tokens, attention, which grows with the square of each sequence, and adapters. The prior is
`cluster.planning.step_time`'s roofline; the fit multiplies each of these five parts by a factor of its own. So a few
measured steps say much about others, and parts that no step has shown yet are scaled as the engine is as a whole.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoetrope.cluster.planning.cost_fit import CostFit
from zoetrope.cluster.planning.hardware import Hardware
from zoetrope.cluster.planning.rates import Rates
from zoetrope.cluster.planning.step_time import step_time
from zoetrope.model.families.config import TEXT_TOKENS, TransformerConfig
from zoetrope.model.request.quantize import Quantize

# Assumed, until a step is measured: what a step and each of its sequences cost beside the roofline (launches, packing,
# samplers), on a GPU and on a CPU.
GPU_STEP, GPU_SEQUENCE = 4e-3, 1e-3
CPU_STEP, CPU_SEQUENCE = 10e-3, 2e-3
ADAPTED_PRODUCTS = 8  # of a block, in widths: four of the self-attention, two of the cross-attention, two of the rest
THIN = 0.3  # assumed: the share of a product's speed that adapters reach, which have few columns
PER_OCTAVE, OCTAVES = 2, 21  # points at which the roofline is computed: up to 2 million tokens
GRID = [math.pow(2.0, number / PER_OCTAVE) for number in range(PER_OCTAVE * OCTAVES + 1)]
RECENT = 64  # predictions whose error is known


@dataclass(frozen=True, slots=True)
class Load:
    """What one segment adds to a step.

    Attributes:
        tokens: of one sequence, with those of its sources. branches: of guidance, a sequence each. adapters: that are
            applied to its tokens.
    """

    tokens: int
    branches: int = 1
    adapters: int = 0


@dataclass(frozen=True)
class Streaming:
    """What an engine streams from the host in every forward pass.

    Attributes:
        share: of the layers. seconds: to copy them once. tokens: of a forward pass, at most; 0: no limit.
    """

    share: float
    seconds: float
    tokens: int = 0


class StepCosts:
    """The costs of the steps of one engine, or of others like it."""

    def __init__(
        self,
        *,
        ranks: int,
        cfg_groups: int,
        linear: Sequence[float],
        attention: tuple[float, float],
        parts: Sequence[float],
        fit: CostFit | None = None,
        streaming: Streaming | None = None,
    ) -> None:
        """
        Args:
            ranks: of the engine, in all groups.
            linear: seconds of all that grows with the packed tokens of a group, at `_points`.
            attention: seconds of a sequence for each token, and for each squared.
            parts: seconds of a step, of each sequence, and of each token with an adapter.
        """
        self.ranks = ranks
        self._groups = cfg_groups
        self._linear = tuple(linear)
        self._attention = attention
        self._parts = tuple(parts)
        self._streaming = streaming
        self._fit = fit or CostFit(5)
        self._errors: deque[float] = deque(maxlen=RECENT)

    @classmethod
    def prior(
        cls,
        config: TransformerConfig,
        rates: Rates,
        *,
        ranks: int = 1,
        cfg_groups: int = 1,
        text_tokens: int = TEXT_TOKENS,
        quantize: Quantize = "none",
        adapter_rank: int = 64,
        streaming: Streaming | None = None,
    ) -> StepCosts:
        """Predict from the roofline alone.

        Args:
            ranks: of the engine; ``cfg_groups`` of them work on different sequences.
            adapter_rank: of an engine's slots.

        Raises:
            ValueError: the groups do not divide the ranks.
        """
        if ranks < 1 or cfg_groups < 1 or ranks % cfg_groups:
            raise ValueError(f"ranks is {ranks}: it must be at least 1, and a multiple of cfg_groups, {cfg_groups}")
        own, gear = ranks // cfg_groups, rates.hardware
        blocks = config.num_layers + len(config.vace_layers)
        rate = rates.attention / rates.correction * own
        attention = (4.0 * text_tokens * config.dim * blocks / rate, 4.0 * config.dim * blocks / rate)
        text = config.forward_cost(0, text_tokens).text * rates.correction / rates.products / own
        linear = []
        for tokens in _points():
            time = step_time(
                config,
                [tokens] * cfg_groups,
                rates,
                sequence_ranks=own,
                cfg_groups=cfg_groups,
                text_tokens=text_tokens,
                quantize=quantize,
            )
            linear.append(max(0.0, time.total - tokens * (attention[0] + attention[1] * tokens) - text))
        flops = 4.0 * blocks * ADAPTED_PRODUCTS * config.dim * adapter_rank
        adapted = flops * rates.correction / (THIN * rates.products) / own
        step, sequence = _overheads(gear)
        return cls(
            ranks=ranks,
            cfg_groups=cfg_groups,
            linear=linear,
            attention=attention,
            parts=(step, sequence + text, adapted),
            streaming=streaming,
        )

    @property
    def groups(self) -> int:
        """Groups of ranks that work on different sequences."""
        return self._groups

    @property
    def error(self) -> float:
        """The median relative error of recent predictions, each made before its step was seen; 0 without any."""
        return statistics.median(self._errors) if self._errors else 0.0

    @property
    def seen(self) -> int:
        """How many steps it has learned from."""
        return self._fit.seen

    def seconds(self, loads: Sequence[Load]) -> float:
        """Predict a step; 0 for one of nothing."""
        if not loads:
            return 0.0
        return self._of(self._busiest(loads), self._passes(loads))

    def shares(self, loads: Sequence[Load]) -> list[float]:
        """Return which part of a step's seconds each load is to blame for: its own sequences, tokens, attention and
        adapters, and an even part of what the step costs in any case. They add up to 1."""
        if not loads:
            return []
        factors, packed = self._factors, sum(load.tokens * load.branches for load in loads)
        step, linear = factors[0] * self._parts[0], factors[2] * self._interpolated(packed / self._groups) / packed
        own = [step / len(loads) + self._own(load, linear) for load in loads]
        total = sum(own)
        return [seconds / total for seconds in own]

    def share_seconds(self, load: Load, company: float = 1.0) -> float:
        """Predict the seconds of a step that `shares` would give a load.

        Args:
            company: how many loads a step has on average, this one included; at least 1. The others are taken to be
                as large as this one.
        """
        packed = load.tokens * load.branches * company
        linear = self._factors[2] * self._interpolated(packed / self._groups) / packed
        seconds = self._factors[0] * self._parts[0] / company + self._own(load, linear)
        if self._streaming is None:
            return seconds
        alone = self.seconds([load])
        return alone if company <= 1 else max(seconds, alone / company)

    def observe(self, loads: Sequence[Load], seconds: float) -> None:
        """Learn from a step that took so long."""
        if not loads or not (math.isfinite(seconds) and seconds > 0):
            return
        features = self._busiest(loads)
        passes = self._passes(loads)
        predicted = self._of(features, passes)
        self._errors.append(abs(predicted - seconds) / seconds)
        if self._copied(features, passes) > self._seconds(features):
            return  # the link was measured, not the network
        self._fit.observe(features, seconds, predicted)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        streaming = self._streaming
        return {
            "ranks": self.ranks,
            "cfg_groups": self._groups,
            "linear": [_short(value) for value in self._linear],
            "attention": [_short(value) for value in self._attention],
            "parts": [_short(value) for value in self._parts],
            "factors": [_short(value) for value in self._fit.factors],
            "seen": self.seen,
            "error": _short(self.error),
            **({} if streaming is None else {"streaming": vars(streaming)}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StepCosts:
        """Invert `to_dict`: predictions are the same, and learning goes on from there.

        Raises:
            ValueError: it is not what `to_dict` gives.
        """
        try:
            streaming = data.get("streaming")
            made = cls(
                ranks=int(data["ranks"]),
                cfg_groups=int(data["cfg_groups"]),
                linear=[float(value) for value in data["linear"]],
                attention=(float(data["attention"][0]), float(data["attention"][1])),
                parts=[float(value) for value in data["parts"]],
                fit=CostFit(5, [float(value) for value in data["factors"]], int(data["seen"])),
                streaming=None if streaming is None else Streaming(**streaming),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"costs: {error!r} in what should be the costs of an engine") from None
        if len(made._linear) != len(_points()) or len(made._parts) != 3 or len(made._fit.factors) != 5:
            raise ValueError("costs: of another release")
        if data.get("error"):
            made._errors.append(float(data["error"]))
        return made

    @property
    def _factors(self) -> Sequence[float]:
        return self._fit.factors

    def _own(self, load: Load, linear: float) -> float:
        """Seconds of a load's own; ``linear``: of a packed token."""
        factors, (near, far), tokens = self._factors, self._attention, load.tokens
        sequence = factors[1] * self._parts[1] + factors[3] * tokens * (near + far * tokens)
        if load.adapters:
            sequence += factors[4] * tokens * self._parts[2]
        return load.branches * (sequence / self._groups + linear * tokens)

    def _busiest(self, loads: Sequence[Load]) -> list[float]:
        """Return the five parts of the group that takes longest, in seconds of the prior.

        As `cluster.planning.slicing.assign` has it, the branches of a segment go to different groups.
        """
        near, far = self._attention
        count = self._groups
        sums = [[0, 0, 0.0, 0] for _ in range(count)]  # sequences, tokens, attention, tokens with adapters
        odd: list[tuple[int, int]] = []
        for load in loads:
            tokens = load.tokens
            adapted = tokens if load.adapters else 0
            each, rest = divmod(load.branches, count)
            if each:
                attention = each * tokens * (near + far * tokens)
                for group in sums:
                    group[0] += each
                    group[1] += each * tokens
                    group[2] += attention
                    group[3] += each * adapted
            odd += [(tokens, adapted)] * rest
        for tokens, adapted in sorted(odd, reverse=True):
            group = min(sums, key=lambda one: one[1])
            group[0] += 1
            group[1] += tokens
            group[2] += tokens * (near + far * tokens)
            group[3] += adapted
        step, sequence, token = self._parts
        found = [[step, s * sequence, self._interpolated(n), a, d * token] for s, n, a, d in sums if s]
        return found[0] if len(found) == 1 else max(found, key=self._seconds)

    def _seconds(self, features: Sequence[float]) -> float:
        one, two, three, four, five = self._factors
        return one * features[0] + two * features[1] + three * features[2] + four * features[3] + five * features[4]

    def _of(self, features: Sequence[float], passes: int) -> float:
        """Seconds of a group, with those in which it waits for weights."""
        return max(self._seconds(features), self._copied(features, passes))

    def _copied(self, features: Sequence[float], passes: int) -> float:
        """Seconds of a group whose streamed layers take as long as their copies; 0 if none are."""
        if self._streaming is None:
            return 0.0
        return passes * self._streaming.seconds + (1 - self._streaming.share) * self._seconds(features)

    def _passes(self, loads: Sequence[Load]) -> int:
        """Forward passes of a step: where weights are streamed, so many tokens at a time."""
        if self._streaming is None or not self._streaming.tokens:
            return 1
        return math.ceil(sum(load.tokens * load.branches for load in loads) / self._streaming.tokens)

    def _interpolated(self, tokens: float) -> float:
        """Seconds of the prior for so many packed tokens."""
        if tokens < 1:
            return tokens * self._linear[0]
        place = min(int(PER_OCTAVE * math.log2(tokens)), len(self._linear) - 2)
        low, high = GRID[place], GRID[place + 1]
        first, last = self._linear[place], self._linear[place + 1]
        return max(0.0, first + (last - first) * (tokens - low) / (high - low))


def _points() -> list[int]:
    """Numbers of tokens, rounded powers of two; `_interpolated` takes them for exact ones."""
    return [round(tokens) for tokens in GRID]


def _overheads(gear: Hardware) -> tuple[float, float]:
    return (GPU_STEP, GPU_SEQUENCE) if gear.is_gpu else (CPU_STEP, CPU_SEQUENCE)


def _short(value: float) -> float:
    return float(f"{value:.6g}")

"""The machines of a simulation: engines of given sizes, the costs of their steps, and the servers of other stages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zoetrope.benchmarks.simulate.trace import TraceError
from zoetrope.benchmarks.simulate.workload import SimSegment
from zoetrope.cluster.planning.calibration import rates_of
from zoetrope.cluster.planning.gang_plan import PlanError, plan_gang
from zoetrope.cluster.planning.hardware import hardware
from zoetrope.cluster.planning.rates import Rates
from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.model.families.family import Preset

MAX_GPUS = 1_024
PLANNED = (832, 480, 5.0)  # the clip that a gang's layout is planned for: width, height, seconds
# Seconds of an autoencoder for a million pixels: 12.8 s are published for 121 frames of 1280 x 704 on an H100.
DECODE_SECONDS = 0.117
# Assumed: of the text encoder, and of encoding a picture or clip in parts of what decoding it takes.
TEXT_SECONDS, ENCODE_SHARE = 0.05, 0.4


@dataclass(frozen=True)
class StageSeconds:
    """What conditioning and decoding take, in seconds of one server: ``text`` for a prompt, ``encode`` and ``decode``
    for a million pixels; ``every`` job waits so long in addition, for no server."""

    text: float = TEXT_SECONDS
    encode: float = ENCODE_SHARE * DECODE_SECONDS
    decode: float = DECODE_SECONDS
    every: float = 0.0


@dataclass(frozen=True)
class Fleet:
    """Engines, and what may happen to them.

    Attributes:
        engines: ranks of each, one GPU a rank.
        costs: of the steps of an engine, by its ranks.
        origin: where these costs come from, to be shown beside every figure.
        conditioners, decoders: servers of the other stages; their GPUs are not counted among the engines'.
        failures: mean hours between failures of one GPU, which takes its engine with it; None: never.
        restart: seconds that an engine takes to load its model, after a failure and, if ``cold``, before its first.
        snapshot: seconds between two snapshots; what was done since the last one is lost with the engine.
        handover: seconds that a segment takes to move to another engine.
    """

    engines: tuple[int, ...]
    costs: Mapping[int, StepCosts]
    origin: str
    stages: StageSeconds = StageSeconds()
    conditioners: int = 1
    decoders: int = 1
    failures: float | None = None
    restart: float = 300.0
    cold: bool = False
    snapshot: float = 10.0
    handover: float = 1.0

    @property
    def gpus(self) -> int:
        return sum(self.engines)

    @property
    def fastest(self) -> int:
        return max(self.engines)

    def denoise_seconds(self, segments: Sequence[SimSegment], ranks: int) -> float:
        """Return the seconds that a job's segments take alone on an engine."""
        costs = self.costs[ranks]
        return sum(s.steps * costs.seconds([Load(s.tokens, s.branches)]) for s in segments)

    def described(self) -> str:
        """Name the engines: ``8 engines of 8 GPUs``."""
        counts = sorted(Counter(self.engines).items(), reverse=True)
        names = [f"{n} engine{'s' if n > 1 else ''} of {ranks} GPU{'s' if ranks > 1 else ''}" for ranks, n in counts]
        return " and ".join(names)


def parse_engines(text: str) -> tuple[int, ...]:
    """Read ``COUNTxGPUS`` terms separated by commas: ``4x8,32x1`` are 4 engines of 8 GPUs and 32 of one.

    Raises:
        TraceError: it has another form, or more than `MAX_GPUS` GPUs.
    """
    found: list[int] = []
    for term in text.split(","):
        match = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,2})", term.strip())
        if match is None:
            raise TraceError(f"engines is {text!r}: {term.strip()!r} is not COUNTxGPUS, such as 8x8")
        found += [int(match[2])] * int(match[1])
    if sum(found) > MAX_GPUS:
        raise TraceError(f"engines is {text!r}: {sum(found)} GPUs, must be at most {MAX_GPUS}")
    return tuple(found)


def costs_of(preset: Preset, gpu: str, sizes: Sequence[int]) -> tuple[dict[int, StepCosts], str]:
    """Return the costs of a step for each size of gang, laid out as `plan_gang` would, and where they come from.

    Raises:
        TraceError: the kind of GPU is unknown, or the model does not run on a gang of such a size.
    """
    try:
        rates = rates_of(hardware(gpu))
        groups = {ranks: _cfg_groups(preset, gpu, ranks, rates) for ranks in sorted(set(sizes))}
    except PlanError as error:
        raise TraceError(f"engines: {preset.name} on {gpu}: {error.field} is {error}") from None
    except ValueError as error:
        raise TraceError(str(error)) from None
    found = {ranks: StepCosts.prior(preset.config, rates, ranks=ranks, cfg_groups=cfg) for ranks, cfg in groups.items()}
    return found, f"{rates.origin}: " + "; ".join(rates.notes)


def _cfg_groups(preset: Preset, gpu: str, ranks: int, rates: Rates) -> int:
    width, height, seconds = PLANNED
    return plan_gang(preset, ranks, gpu, width, height, seconds, rates=rates).cfg_groups

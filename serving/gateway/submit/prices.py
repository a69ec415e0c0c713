"""What jobs cost, to a gateway: by what the model's engines have learned, else by the roofline of this machine."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoetrope.cluster.planning.step_costs import Load
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import EngineRow
from zoetrope.serving.jobs.store import JobStore
from zoetrope.serving.router.pricing import EngineCosts, Price, price_of

READ_SECONDS = 1.0  # between two looks at the engines
PRESENT_SECONDS = 5.0  # after which an engine that was not seen counts as gone
REMEMBERED_SECONDS = 3_600.0  # its costs count longer
CALIBRATED_STEPS = 8  # that must have been measured before a job is refused for its price
FEW, CPU_SECONDS = Load(1_560), 5.0  # a step of a picture, for which nobody waits so long on CPUs
GPUS = Path("/proc/driver/nvidia/gpus")
log = logging.getLogger("zoetrope.gateway")


@dataclass(frozen=True)
class Quote:
    """What a gateway knows of a model's costs now.

    Attributes:
        costs: None if nothing is known, not even its network. calibrated: they were measured.
        gpus: of its engines that are there. solo_ranks: of the engine that ``costs`` are of.
        most_tokens: of a step that fit into the largest of them; 0: not known.
        backlog: GPU-seconds of its unfinished jobs. waiting: how many these are.
    """

    costs: EngineCosts | None = None
    calibrated: bool = False
    gpus: int = 0
    most_tokens: int = 0
    backlog: float = 0.0
    waiting: int = 0

    def price(self, spec: VideoSpec, card: ModelCard) -> Price | None:
        """Price a job; None if nothing is known."""
        return None if self.costs is None else price_of(spec, card, self.costs)

    def solo_seconds(self, price: Price) -> float:
        """Return how long a job takes on an engine of its own."""
        ranks, decoders = (1, 1) if self.costs is None else (self.costs.step.ranks, self.costs.decoders)
        return price.conditioning + price.denoising / ranks + price.decoding / decoders

    def outlook(self, price: Price) -> tuple[float, float, float] | None:
        """Estimate, from the backlog alone, the seconds until a new job is done, and at least and at most how many;
        None if no engine is there."""
        if not self.gpus:
            return None
        alone = self.solo_seconds(price)
        behind = alone + self.backlog / self.gpus
        return (alone + behind) / 2, alone, behind

    @property
    def retry_seconds(self) -> float | None:
        """How long it takes on average until a job ends; None if nothing is known."""
        if not self.gpus or not self.waiting or self.backlog <= 0:
            return None
        return self.backlog / self.waiting / self.gpus


@dataclass(frozen=True)
class _Seen:
    at: float
    engines: Sequence[EngineRow]
    backlogs: dict[str, tuple[int, float]]


class Prices:
    """Reads what engines cost, at most once a second for all who ask."""

    def __init__(self, settings: Settings, store: JobStore, models: Sequence[str]) -> None:
        """``models``: the names of those served."""
        self._settings = settings
        self._models = tuple(models)
        self._store = store
        self._seen: _Seen | None = None
        self._reading = asyncio.Lock()
        self._priors: dict[str, EngineCosts | None] = {}

    async def quote(self, card: ModelCard) -> Quote:
        """Return what is known of a model's costs now. Raises StoreError."""
        seen = self._seen
        if seen is None or time.monotonic() > seen.at + READ_SECONDS:
            async with self._reading:
                seen = self._seen
                if seen is None or time.monotonic() > seen.at + READ_SECONDS:
                    seen = self._seen = await asyncio.to_thread(self._read)
        waiting, backlog = seen.backlogs.get(card.name, (0, 0.0))
        engines = [engine for engine in seen.engines if engine.model == card.name]
        present = [e for e in engines if e.state == "ready" and e.seen_at > time.time() - PRESENT_SECONDS]
        learned = [found for e in _newest_first(present or engines) if (found := _costs(e)) is not None]
        if not learned:
            return Quote(await self._prior(card), gpus=_gpus(present), backlog=backlog, waiting=waiting)
        largest = [costs.most_tokens for e in present if (costs := _costs(e)) is not None]
        return Quote(
            learned[0],
            calibrated=learned[0].step.seen >= CALIBRATED_STEPS,
            gpus=_gpus(present),
            most_tokens=0 if not largest or 0 in largest else max(largest),
            backlog=backlog,
            waiting=waiting,
        )

    def _read(self) -> _Seen:
        engines = self._store.engines(REMEMBERED_SECONDS)
        return _Seen(time.monotonic(), engines, self._store.priced(self._models))

    async def _prior(self, card: ModelCard) -> EngineCosts | None:
        if card.name not in self._priors:
            self._priors[card.name] = await asyncio.to_thread(self._make_prior, card)
        return self._priors[card.name]

    def _make_prior(self, card: ModelCard) -> EngineCosts | None:
        settings, device = self._settings, this_device()
        try:
            made = EngineCosts.prior(
                card,
                device,
                ranks=settings.ranks,
                cfg_groups=settings.cfg_groups,
                adapter_rank=int(settings.adapter_rank),
                decoders=settings.vae_devices,
            )
        except (ModelError, OSError, ValueError) as error:
            log.info("jobs of %s have no price before an engine is there: %s", card.name, error)
            return None
        # A gateway often has no GPU where the engines do.
        return None if device == "cpu" and made.step.seconds([FEW]) > CPU_SECONDS else made


def this_device(folder: Path = GPUS) -> str:
    """Return the name of this machine's first GPU, as its driver writes it to ``folder``, or "cpu"."""
    for file in sorted(folder.glob("*/information")):
        for line in file.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                return value.strip()
    return "cpu"


def _newest_first(engines: Sequence[EngineRow]) -> list[EngineRow]:
    return sorted(engines, key=lambda engine: -engine.seen_at)


def _costs(engine: EngineRow) -> EngineCosts | None:
    try:
        return EngineCosts.from_dict(engine.costs)
    except ValueError:
        return None  # it has not reported yet, or is of another release


def _gpus(engines: Sequence[EngineRow]) -> int:
    return sum(engine.ranks for engine in engines)

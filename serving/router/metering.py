"""Meters engines: what their steps cost, who was in them, and what each job has used so far. No I/O, no clock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoetrope.cluster.planning.cost_fit import EAGER, PAUSE
from zoetrope.cluster.planning.step_costs import Load, StepCosts, Streaming
from zoetrope.cluster.protocol.messages import Report, StepShare
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.router.active import job_of
from zoetrope.serving.router.pricing import EngineCosts, StageCosts, StageName

SMOOTH = 0.02  # least weight of a step in the mean company; the first ones count alike
RECALLED = 10  # steps that the mean company of an earlier router counts for
log = logging.getLogger("zoetrope.router")


@dataclass
class _Engine:
    """An engine's costs, as learned under a gang's epoch; ``fresh``: that gang has taken no step yet."""

    model: str
    epoch: int
    costs: StepCosts
    most_tokens: int
    predicted: float = 0.0  # of the newest step
    fresh: bool = True
    row: tuple[int, dict[str, Any]] | None = None  # its costs as a dictionary, after so many fits


@dataclass
class Meter:
    """What the router knows of costs.

    Attributes:
        card: finds a model's card by its name; None if it is not served.
        adapter_rank: of the engines' slots. decoders: devices that share the decoding of a clip.
    """

    card: Callable[[str], ModelCard | None]
    adapter_rank: int = 64
    decoders: int = 1
    _engines: dict[str, _Engine] = field(default_factory=dict)
    _company: dict[str, tuple[float, int]] = field(default_factory=dict)  # by model: the mean, and of how many steps
    _stages: dict[str, StageCosts] = field(default_factory=dict)
    _used: dict[str, float] = field(default_factory=dict)
    _known: dict[str, EngineCosts] = field(default_factory=dict)  # by engine, from before this router

    def recall(self, costs: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what an earlier router had learned of engines, by their ids; what cannot be read is left out."""
        for engine_id, data in costs.items():
            try:
                self._known[engine_id] = EngineCosts.from_dict(data)
            except ValueError:
                continue

    def note(self, report: Report) -> dict[str, float]:
        """Learn from a report.

        Returns:
            The GPU-seconds that its step took, by job.
        """
        if report.state == "loading":  # its gang, and so its device, is not there
            return {}
        engine = self._engine(report)
        if engine is None:
            return {}
        if report.state in ("draining", "out"):
            self._engines.pop(report.engine, None)
        if not report.shares or not report.step_seconds > 0:
            return {}
        loads = [_load(share) for share in report.shares]
        engine.predicted = engine.costs.seconds(loads)
        if not report.failed and not engine.fresh:
            engine.costs.observe(loads, report.step_seconds)
        engine.fresh = False
        self._note_company(report.model, len(loads))
        used: dict[str, float] = {}
        for share, part in zip(report.shares, engine.costs.shares(loads), strict=True):
            job = job_of(share.id)
            used[job] = used.get(job, 0.0) + part * report.step_seconds * report.ranks
        for job, seconds in used.items():
            self.use(job, seconds)
        return used

    def _note_company(self, model: str, loads: int) -> None:
        mean, steps = self._company.get(model, (0.0, 0))
        weight = max(SMOOTH, 1 / (steps + 1))
        self._company[model] = mean + weight * (loads - mean), steps + 1

    def stage(self, stage: StageName, job: str, spec: VideoSpec, seconds: float) -> None:
        """Learn what a stage of a whole job took on its devices, and have the job pay for it."""
        card = self.card(spec.model)
        if card is not None and spec.model in self._stages:
            self._stages[spec.model].observe(stage, spec, card, seconds)
        self.use(job, seconds * (self.decoders if stage == "decoding" else 1))

    def denoised_by(self, deadline: float | None, spec: VideoSpec) -> float | None:
        """Return when the last step of a job must be taken for its clip to be there at its deadline, by what decoding
        is predicted to take; None if it has no deadline."""
        card, stages = self.card(spec.model), self._stages.get(spec.model)
        if deadline is None or card is None or stages is None:
            return deadline
        return deadline - stages.seconds("decoding", spec, card)

    def begin(self, job: str, used: float) -> None:
        """Start to count a job that has used so much in earlier attempts."""
        self._used[job] = used

    def use(self, job: str, seconds: float) -> None:
        """Add GPU-seconds to what a job has used, if it is counted."""
        if job in self._used:
            self._used[job] += seconds

    def used(self, job: str) -> float:
        """Return the GPU-seconds that a job has used so far, in all attempts."""
        return self._used.get(job, 0.0)

    def forget(self, job: str) -> None:
        """Stop to count a job."""
        self._used.pop(job, None)

    def costs_of(self, report: Report) -> StepCosts:
        """Return the costs of the steps of the engine that reports, which `note` goes on to improve.

        Raises:
            KeyError: its model is not served here.
        """
        found = self._engine(report)
        if found is None:
            raise KeyError(report.model)
        return found.costs

    def costs(self, engine: str) -> StepCosts | None:
        """Return the costs of an engine's steps; None before its first report."""
        found = self._engines.get(engine)
        return None if found is None else found.costs

    def predicted(self, engine: str) -> float:
        """Return what the newest step of an engine was predicted to take, in seconds; 0 before the first."""
        found = self._engines.get(engine)
        return 0.0 if found is None else found.predicted

    def company(self, model: str) -> float:
        """Return how many segments a step of a model's engines has, on average."""
        return self._company.get(model, (1.0, 0))[0]

    def stages(self, model: str) -> StageCosts:
        """Return the costs of a model's conditioner and decoder.

        Raises:
            KeyError: no engine of the model has reported, and the model is not known.
        """
        return self._stages[model]

    def row(self, engine: str) -> dict[str, Any]:
        """Return `engine_costs` as a dictionary, made anew after every few steps; {} before the first report."""
        found = self._engines.get(engine)
        costs = None if found is None else self.engine_costs(engine)
        if found is None or costs is None:
            return {}
        turn = found.costs.seen if found.costs.seen <= EAGER else EAGER + found.costs.seen // PAUSE
        if found.row is None or found.row[0] != turn:
            found.row = turn, costs.to_dict()
        return found.row[1]

    def engine_costs(self, engine: str) -> EngineCosts | None:
        """Return all that a price needs to know of an engine; None before its first report."""
        found = self._engines.get(engine)
        if found is None:
            return None
        stages, company = self._stages[found.model], self.company(found.model)
        return EngineCosts(found.costs, stages, company, found.most_tokens, self.decoders)

    def _engine(self, report: Report) -> _Engine | None:
        """The engine that reports; a new gang of it goes on with its costs, and starts with its warm-up."""
        found = self._engines.get(report.engine)
        if found is not None and (found.epoch, found.model) == (report.gang_epoch, report.model):
            return found
        card = self.card(report.model)
        if card is None:
            return None
        if found is None or found.model != report.model:
            made = self._known.pop(report.engine, None)
            if made is None or made.step.ranks != report.ranks:
                made = self._prior(card, report)
            self._stages.setdefault(report.model, made.stages)
            if made.company > 1:
                self._company.setdefault(report.model, (made.company, RECALLED))
            found = _Engine(report.model, report.gang_epoch, made.step, report.most_tokens)
        else:
            found.epoch, found.fresh, found.most_tokens = report.gang_epoch, True, report.most_tokens
        for share, seconds in report.warmed:
            found.costs.observe([_load(share)], seconds)
        self._engines[report.engine] = found
        return found

    def _prior(self, card: ModelCard, report: Report) -> EngineCosts:
        return EngineCosts.prior(
            card,
            report.device or "cpu",
            ranks=report.ranks,
            cfg_groups=report.cfg_groups,
            adapter_rank=self.adapter_rank,
            streaming=_streaming(report),
            decoders=self.decoders,
        )


def _load(share: StepShare) -> Load:
    return Load(share.tokens, share.branches, share.adapters)


def _streaming(report: Report) -> Streaming | None:
    if not report.streaming:
        return None
    share, seconds, tokens = report.streaming
    return Streaming(share, seconds, int(tokens))

"""Faults to inject while a load runs: ``ACTION@SECONDS``."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.serving_load.drive import JobRecord, LoadRun
from zoetrope.benchmarks.serving_load.own_service import KINDS, OwnService
from zoetrope.benchmarks.serving_load.target import Target, TargetRefused

LOOK_SECONDS = 0.05  # between two looks for a job to cancel
ENGINE_KINDS = ("leader", "rank")  # whose end costs only jobs on an engine anything
ACTIONS = (*(f"kill-{kind}" for kind in KINDS), "restart", "cancel")


@dataclass(frozen=True)
class Killing:
    """Kill the processes of a kind with SIGKILL; what watches over them starts them again."""

    at: float
    kind: str
    service: OwnService

    @property
    def hits_engines(self) -> bool:
        return self.kind in ENGINE_KINDS

    async def ready(self, run: LoadRun) -> None:
        pass

    async def strike(self, run: LoadRun, target: Target) -> str:
        pids = await asyncio.to_thread(self.service.kill, self.kind)
        return f"killed {self.kind} ({len(pids)} process{'es' if len(pids) != 1 else ''})"


@dataclass(frozen=True)
class Restarting:
    """Stop the service in good order and start it again."""

    at: float
    service: OwnService
    hits_engines: bool = False

    async def ready(self, run: LoadRun) -> None:
        pass

    async def strike(self, run: LoadRun, target: Target) -> str:
        seconds = await asyncio.to_thread(self.service.restart)
        return f"restarted the service in {seconds:.1f} s"


@dataclass(frozen=True)
class Cancelling:
    """Ask for the end of the oldest job on an engine, or of the oldest that is under way, or of the next one to be."""

    at: float
    hits_engines: bool = False

    async def ready(self, run: LoadRun) -> None:
        while not self._candidates(run) and run.over < len(run.records):
            await asyncio.sleep(LOOK_SECONDS)

    def _candidates(self, run: LoadRun) -> list[JobRecord]:
        return [record for record in run.under_way() if not record.cancel_asked]

    async def strike(self, run: LoadRun, target: Target) -> str:
        candidates = self._candidates(run)
        if not candidates:
            return "cancelled nothing: all jobs were over"
        on_engines = run.on_engines or ()
        record = next((record for record in candidates if record.name in on_engines), candidates[0])
        record.cancel_asked = True
        try:
            await target.cancel(record.job.tenant, record.name)
        except TargetRefused as refused:
            record.cancel_asked = False
            return f"could not cancel job {record.number}: {refused.kind}"
        return f"cancelled job {record.number}"


@dataclass(frozen=True)
class FaultLine:
    """A fault as it is asked for."""

    action: str
    at: float


def parse_faults(texts: Iterable[str]) -> list[FaultLine]:
    """Parse faults, ``ACTION@SECONDS`` each, in the order of their times.

    Raises:
        BenchmarkError: one is malformed, or there is no such action.
    """
    found = []
    for text in texts:
        action, mark, seconds = text.partition("@")
        try:
            at = float(seconds)
        except ValueError:
            at = math.nan
        if action not in ACTIONS:
            raise BenchmarkError(f"fault: {action!r} of {text!r} must be one of {', '.join(ACTIONS)}")
        if not mark or not (math.isfinite(at) and at >= 0):
            raise BenchmarkError(f"fault: {text!r} must be ACTION@SECONDS, with seconds from the start of the load")
        found.append(FaultLine(action, at))
    return sorted(found, key=lambda fault: fault.at)


def needs_own_service(faults: Sequence[FaultLine]) -> list[str]:
    """Return the actions that only a service of the benchmark's own can suffer."""
    return [fault.action for fault in faults if fault.action != "cancel"]


def made(faults: Sequence[FaultLine], service: OwnService | None) -> list[Killing | Restarting | Cancelling]:
    """Make faults that can be injected."""
    ready: list[Killing | Restarting | Cancelling] = []
    for fault in faults:
        if fault.action == "cancel":
            ready.append(Cancelling(fault.at))
            continue
        assert service is not None, "checked before"
        if fault.action == "restart":
            ready.append(Restarting(fault.at, service))
        else:
            ready.append(Killing(fault.at, fault.action.removeprefix("kill-"), service))
    return ready

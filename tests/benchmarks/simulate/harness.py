"""Fleets whose steps take simple times, and jobs for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoetrope.benchmarks.simulate.fleet import Fleet, StageSeconds
from zoetrope.benchmarks.simulate.simulation import SimRules, Simulation
from zoetrope.benchmarks.simulate.trace import TraceJob
from zoetrope.benchmarks.simulate.workload import preset_named, workload
from zoetrope.cluster.planning.calibration import rates_of
from zoetrope.cluster.planning.hardware import hardware
from zoetrope.cluster.planning.step_costs import Load, StepCosts
from zoetrope.serving.router.policies.choose import policy_of

PRESET = "wan2.7-27b"
NO_STAGES = StageSeconds(text=0.0, encode=0.0, decode=0.0)
ONE_AT_A_TIME = 1  # tokens of a step: anything fits into an empty one, and nothing beside it


class EverySecond(StepCosts):
    """A step takes a second for each segment in it, divided by the ranks."""

    def __init__(self, ranks: int) -> None:
        prior = real_costs(ranks)
        self.__dict__.update(prior.__dict__)

    def seconds(self, loads: Sequence[Load]) -> float:
        return len(loads) / self.ranks


def real_costs(ranks: int) -> StepCosts:
    return StepCosts.prior(preset_named(PRESET).config, rates_of(hardware("h100")), ranks=ranks)


def fleet_of(*engines: int, real: bool = False, **more: Any) -> Fleet:
    costs = {ranks: real_costs(ranks) if real else EverySecond(ranks) for ranks in (1, 2, 4, 8)}
    return Fleet(
        engines, costs, "roofline: for a test", **{"stages": NO_STAGES, "conditioners": 50, "decoders": 50, **more}
    )


def job(arrival: float, steps: int, tenant: str = "one", **more: Any) -> TraceJob:
    return TraceJob(arrival=arrival, steps=steps, tenant=tenant, **{"width": 832, "height": 480, "frames": 49, **more})


def simulation(trace: Sequence[TraceJob], fleet: Fleet, policy: str, **rules: Any) -> Simulation:
    work = workload(preset_named(PRESET), trace)
    made = policy_of(policy, ranks=fleet.fastest, gpus=fleet.gpus)
    return Simulation(trace, work, fleet, made, SimRules(**{"step_tokens": ONE_AT_A_TIME, **rules}))


def ends(trace: Sequence[TraceJob], fleet: Fleet, policy: str, **rules: Any) -> list[float | None]:
    """When each job was done, in the trace's order."""
    return [outcome.done for outcome in simulation(trace, fleet, policy, **rules).run()]

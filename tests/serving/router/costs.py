"""Costs of steps for tests of decisions."""

from __future__ import annotations

from functools import cache

from zoetrope.cluster.planning.hardware import hardware, hardware_of
from zoetrope.cluster.planning.rates import roofline
from zoetrope.cluster.planning.step_costs import StepCosts
from zoetrope.cluster.protocol.messages import Report
from zoetrope.model.families.nano import NANO_CONFIG


@cache
def nano_costs(ranks: int = 1) -> StepCosts:
    """Those of nano on a CPU, as assumed before a step was measured."""
    return StepCosts.prior(NANO_CONFIG, roofline(hardware_of("cpu")), ranks=ranks)


def costs_of_nano(report: Report) -> StepCosts:
    return nano_costs(report.ranks)


def costs_where_company_saves(report: Report) -> StepCosts:
    """Those of nano on a GPU that is much too large for it: steps cost most by their number."""
    return StepCosts.prior(NANO_CONFIG, roofline(hardware("h100")), ranks=report.ranks)

"""What a plan means for a cluster: engines, and which nodes they share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from zoetrope.serving.kubernetes.knobs import KnobError, Knobs

if TYPE_CHECKING:  # the planner needs torch, what is rendered does not
    from zoetrope.cluster.planning.gang_plan import GangPlan

GangPlace = Literal["node", "domain", "domains"]
LEAST_SECONDS, TIMES = 3_600, 10  # of the longest job: at least, and as many planned ones


@dataclass(frozen=True)
class Sizing:
    """The engines of a deployment.

    Attributes:
        engines: of ``ranks`` each, for each of ``roles`` networks. place: what a gang may span.
        job_seconds: of the longest job. clip: width, height and frames of the planned one, as ``1280x704x121``.
    """

    engines: int
    ranks: int
    cfg_groups: int
    roles: int
    place: GangPlace
    job_seconds: int
    clip: str


def size_engines(knobs: Knobs, plan: GangPlan, gpu_seconds: float) -> Sizing:
    """Return as many engines as the nodes have room for.

    Args:
        gpu_seconds: of the planned job.

    Raises:
        KnobError: there is no room for one.
    """
    per_node, ranks = knobs.gpus_per_node, plan.ranks
    if plan.domains > 1:
        place: GangPlace = "domains"
        halves = (knobs.nodes * per_node // knobs.domain) * (knobs.domain // (ranks // 2))
        gangs = halves // 2
    elif ranks > per_node:
        place = "domain"
        gangs = (knobs.nodes * per_node // knobs.domain) * (knobs.domain // ranks)
    else:
        place = "node"
        gangs = knobs.nodes * (per_node // ranks)
    engines = gangs // plan.gangs
    if not engines:
        what = f"{ranks} GPUs" if plan.gangs == 1 else f"{plan.gangs} times {ranks} GPUs"
        nodes = f"{knobs.nodes} node{'s' if knobs.nodes > 1 else ''} of {per_node}"
        raise KnobError(f"nodes: {nodes} have no room for an engine of {what} (NVLink connects {knobs.domain})")
    longest = knobs.longest_job_seconds or max(LEAST_SECONDS, math.ceil(TIMES * gpu_seconds / ranks))
    clip = f"{plan.width}x{plan.height}x{plan.frames}"
    return Sizing(engines, ranks, plan.cfg_groups, plan.gangs, place, longest, clip)

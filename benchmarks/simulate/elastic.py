"""What gangs would give that change their size between steps, against gangs of fixed sizes: a study in the simulator.

    python -m zoetrope.benchmarks.simulate.elastic --nodes 8 --hours 24 --out benchmarks/results/elastic-gangs

Time goes in rounds. In each round a node's GPUs are given to jobs by one rule, whatever sizes are allowed: jobs in the
order of their deadlines, each the fewest GPUs with which it is done in time if it keeps them; then those that are late
already, the shortest first; what is left over doubles the gangs that gain most. Fixed gangs follow the same rule with
the sizes that their node is split into, so the difference is what changing sizes gives, and an upper bound of it: every
GPU is taken to hold the whole model, jobs move between gangs for `Rules.change` seconds, and the rule looks at all jobs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappush, heappop
from typing import Any

from zoetrope.benchmarks.simulate.clock import Clock
from zoetrope.benchmarks.simulate.fleet import Fleet
from zoetrope.benchmarks.simulate.jobs import SimJob, jobs_of
from zoetrope.benchmarks.simulate.metrics import Outcome
from zoetrope.benchmarks.simulate.servers import Servers
from zoetrope.benchmarks.simulate.trace import TraceJob
from zoetrope.benchmarks.simulate.workload import Workload
from zoetrope.cluster.planning.step_costs import Load

NODE = 8  # GPUs that NVLink joins


@dataclass(frozen=True)
class Rules:
    """How a node is shared.

    Attributes:
        split: sizes of a node's fixed gangs; empty: gangs are of any of ``sizes``, in every round anew.
        round: seconds between two assignments; steps are not cut short, so a gang may be busy for longer.
        change: seconds that a job loses whenever the number of its GPUs changes, or their node.
    """

    split: tuple[int, ...] = ()
    sizes: tuple[int, ...] = (1, 2, 4, 8)
    round: float = 2.0
    change: float = 0.1
    slo: float = 3.0

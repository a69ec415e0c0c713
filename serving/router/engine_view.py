"""An engine as the router sees it, and what a report of it says that is new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoetrope.cluster.planning.step_costs import StepCosts
from zoetrope.cluster.protocol.messages import Failed
from zoetrope.model.request.tasks import Role
from zoetrope.serving.router.policies.work import Work


@dataclass
class EngineView:
    """An engine as of its last report, and when it will be given up without another one.

    Attributes:
        stepping: the segments of its newest plan. first: the most urgent of them.
        most_tokens: of a sequence that fits; 0: not known.
        since: when its model was loaded. stale: what is known of its steps is of the model before.
    """

    model: str
    gang_epoch: int
    seen_at: float
    due: float
    costs: StepCosts
    role: Role = "both"
    seconds_per_token: float | None = None
    ready: bool = False
    stepping: frozenset[str] = frozenset()
    first: Work | None = None
    ranks: int = 1
    most_tokens: int = 0
    since: float = 0.0
    stale: bool = True

    @property
    def idle(self) -> bool:
        return self.ready and not self.stepping


@dataclass(frozen=True)
class News:
    """The news of a report: ids of segments that progressed or finished (with a reference to the latents), those that
    failed, and ids of those whose conditions are gone."""

    progressed: tuple[str, ...]
    finished: tuple[tuple[str, Any], ...]
    failed: tuple[Failed, ...]
    lost: tuple[str, ...] = ()

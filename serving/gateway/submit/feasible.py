"""Refuses jobs that cannot be done: by their deadline, or on any engine that is there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from zoetrope.model.request.sizes import SIZES
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.tasks import InvalidRequest, ModelCard, Violation
from zoetrope.model.runtime.errors import Picklable
from zoetrope.serving.gateway.submit.prices import Quote
from zoetrope.serving.jobs.forecast_table import ModelForecast
from zoetrope.serving.router.pricing import Price, load_of

FAR_OFF = 1_000.0  # times that a price which nobody measured may be too high: the roofline may be of another machine


class DeadlineOutOfReach(Picklable):
    """Too much waits in front of a job for its deadline; ``retry_seconds`` later there may be less."""

    def __init__(self, late_seconds: float, retry_seconds: float) -> None:
        self.violation = Violation(
            "deadline", f"cannot be met: with what waits now, the job would end {late_seconds:.3g} s after it"
        )
        super().__init__(f"deadline: {self.violation.description}")
        self.retry_seconds = retry_seconds


def check_feasible(
    spec: VideoSpec,
    card: ModelCard,
    quote: Quote,
    price: Price | None,
    *,
    deadline_at: float | None,
    soonest: float | None,
    resized: Callable[[str], VideoSpec | None],
) -> None:
    """Refuse what cannot be done. What was not measured refuses only jobs that take `FAR_OFF` times too long.

    Args:
        soonest: seconds until it may be done at the earliest, as forecast; None: there is no forecast.
        resized: returns the same request at another named size; None if it cannot have it.

    Raises:
        InvalidRequest: the job fits into no engine, or would miss its deadline if it ran alone, now.
        DeadlineOutOfReach: it would miss it because of what waits.
    """
    if quote.costs is not None and quote.most_tokens:
        groups = quote.costs.step.groups
        if largest_step(spec, card, groups) > quote.most_tokens:
            raise InvalidRequest(Violation("size", _too_large(spec, card, groups, quote.most_tokens, resized)))
    if deadline_at is None or price is None:
        return
    ahead = deadline_at - time.time()
    alone = quote.solo_seconds(price)
    if not quote.calibrated and alone <= FAR_OFF * max(ahead, 1.0):
        return
    if alone > ahead:
        late = f"the job takes {alone:.3g} s by itself, which is {alone - ahead:.3g} s longer than there are left"
        raise InvalidRequest(Violation("deadline", f"cannot be met: {late}"))
    if soonest is not None and soonest > ahead:
        raise DeadlineOutOfReach(soonest - ahead, max(1.0, soonest - ahead))


def outlook_of(
    quote: Quote, price: Price, forecast: ModelForecast | None, tenant: str
) -> tuple[float, float, float] | None:
    """Estimate the seconds until a new job of a tenant is done, and at least and at most how many: by the router's
    forecast, else by the backlog. Tenants take turns, so no other has more jobs in front of it than its own has."""
    if forecast is None or not forecast.gpus:
        return quote.outlook(price)
    queued = {name: queue.queued for name, queue in forecast.tenants.items()}
    own = queued.pop(tenant, 0)
    place = own + sum(min(others, own + 1) for others in queued.values())
    eta, low, high = forecast.eta_of_new(price.total, place)
    alone = quote.solo_seconds(price)
    return max(eta, alone), max(low, alone), max(high, alone)


def largest_step(spec: VideoSpec, card: ModelCard, groups: int) -> int:
    """Return the tokens of a job's largest step; a group without a branch of it counts as full."""
    loads = [load_of(segment_of(spec, "", index), card) for index in range(len(spec.spans))]
    return max(load.tokens * math.ceil(load.branches / groups) * groups for load in loads)


def _too_large(
    spec: VideoSpec, card: ModelCard, groups: int, most: int, resized: Callable[[str], VideoSpec | None]
) -> str:
    tokens = largest_step(spec, card, groups)
    words = f"{spec.width}x{spec.height} with {spec.frames} frames takes {tokens:,} tokens a step"
    words += f", the largest engine here has room for {most:,}"
    for name in sorted(SIZES, key=lambda name: -math.prod(SIZES[name]["16:9"])):
        other = resized(name)
        if other is None or other.native_width * other.native_height >= spec.native_width * spec.native_height:
            continue
        if largest_step(other, card, groups) <= most:
            return f"{words}; {name} would fit"
    return words

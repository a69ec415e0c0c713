"""Makes a policy from its name."""

from __future__ import annotations

from collections.abc import Mapping

from zoetrope.serving.router.policies import edf, fair, fifo, round_robin, srpt
from zoetrope.serving.router.policies.policy import NO_WEIGHTS, Policy, registered

__all__ = ["edf", "fair", "fifo", "policy_of", "round_robin", "srpt"]  # importing them registers them


def policy_of(name: str, ranks: int = 1, weights: Mapping[str, float] = NO_WEIGHTS, gpus: int = 0) -> Policy:
    """Return a policy by its name; the other arguments are those of `Policy`.

    Raises:
        ValueError: there is none of this name.
    """
    known = registered()
    if name not in known:
        raise ValueError(f"policy is {name!r}, must be one of {', '.join(sorted(known))}")
    return known[name](ranks, weights, gpus)

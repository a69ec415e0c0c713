"""Work for tests of decisions, made and drawn."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.serving.router.costs import nano_costs
from zoetrope.cluster.planning.step_costs import Load
from zoetrope.serving.router.policies.work import EngineState, Work

ENGINE = EngineState("e", "nano", 1, "both", 100_000, 4, (), nano_costs())


def make_work(
    work_id: str,
    *,
    tenant: str = "",
    tokens: int = 100,
    remaining: float = 10.0,
    created_at: float = 0.0,
    deadline: float | None = None,
    priority: int = 0,
    adapters: tuple[str, ...] = (),
    cohort: int = 0,
) -> Work:
    """A segment without guidance."""
    load = Load(tokens, 1, len(adapters))
    return Work(
        work_id, tenant, "nano", priority, created_at, deadline, remaining, load, tokens, 9, adapters, cohort, "both"
    )


def drawn_work(prefix: str, most: int = 12) -> st.SearchStrategy[list[Work]]:
    """Up to so many segments of three tenants."""
    one = st.builds(
        lambda number, tenant, tokens, remaining, created_at, wait, priority, adapters: make_work(
            f"{prefix}{number}",
            tenant=tenant,
            tokens=tokens,
            remaining=remaining,
            created_at=created_at,
            deadline=None if wait is None else created_at + wait,
            priority=priority,
            adapters=adapters,
        ),
        st.integers(0, 10_000),
        st.sampled_from("abc"),
        st.integers(1, 1_500),
        st.floats(0, 500),
        st.floats(0, 100),
        st.none() | st.floats(1, 1_000),
        st.integers(0, 9),
        st.sampled_from([(), (), (), ("ink",), ("oil",), ("ink", "oil")]),
    )
    return st.lists(one, unique_by=lambda work: work.id, max_size=most)

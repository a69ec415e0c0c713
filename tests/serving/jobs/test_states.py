"""The table of transitions."""

from __future__ import annotations

import itertools

import pytest

from zoetrope.serving.jobs.job import State
from zoetrope.serving.jobs.states import TRANSITIONS, transition


def test_no_final_state_is_left_but_by_deletion() -> None:
    for row in TRANSITIONS:
        assert (row.source is not None and row.source.final) == (row.target is None) == (row.what == "deleted")
    for state in State:
        assert any(row.target is state for row in TRANSITIONS), f"nothing leads to {state}"
        assert any(row.source is state for row in TRANSITIONS), f"nothing leads away from {state}"


def test_what_the_table_lacks_is_refused() -> None:
    rows = {(row.what, row.source, row.target, row.by) for row in TRANSITIONS}
    assert len(rows) == len(TRANSITIONS)
    states = [None, *State]
    names = sorted({row.what for row in TRANSITIONS})
    for what, source, target, by in itertools.product(names, states, states, ["client", "router:r1", "sweeper"]):
        if (what, source, target, by.partition(":")[0]) in rows:
            assert transition(what, source, target, by).what == what
        else:
            with pytest.raises(ValueError, match="a job cannot go from"):
                transition(what, source, target, by)

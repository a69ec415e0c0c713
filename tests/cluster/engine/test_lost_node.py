"""A node goes away with an engine on it: its segments go on elsewhere from their snapshots."""

from __future__ import annotations

import pytest

from tests.cluster.engine.lost_node import JOBS, SNAPSHOT_STEPS
from tests.cluster.own_cluster import run_in_own_cluster


@pytest.mark.long
@pytest.mark.timeout(2500)
def test_segments_of_a_node_that_goes_away_end_on_another_engine_as_if_undisturbed() -> None:
    found = run_in_own_cluster("tests.cluster.engine.lost_node", 1200)
    lost, other, kinds = found["lost"], found["other"], found["kinds"]
    assert lost != other
    assert kinds[lost] == kinds[other] == "H100", "the node of another kind is passed over"
    assert found["ranks"] == [lost, lost], "a gang is on one node"
    before = found["before"]
    assert sorted(before.values()).count(lost) == sorted(before.values()).count(other) == JOBS // 2
    assert found["reported"] == [other], "nobody else took steps afterwards"
    assert found["epochs"] == [1], "the other engine's gang is the one that it had"
    assert found["failed"] == {}
    assert set(found["errors"]) == set(before)
    assert all(error < 1e-5 for error in found["errors"].values()), (found["errors"], found["leads"])
    for name, node in before.items():
        assert found["redone"][name] <= (SNAPSHOT_STEPS if node == lost else 0), found["redone"]
    assert any(found["redone"][name] > 0 for name in before if before[name] == lost), "it was not yet written away"

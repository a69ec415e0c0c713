"""An NVLink domain of several nodes, for which Serve has no option: the leader places its ranks itself."""

from __future__ import annotations

import pytest

from tests.cluster.own_cluster import run_in_own_cluster


@pytest.mark.long
@pytest.mark.timeout(1300)
def test_a_gang_over_two_nodes_of_a_domain_works_recovers_and_leaves_when_a_node_is_drained() -> None:
    found = run_in_own_cluster("tests.cluster.two_node_gang")
    assert found["after a kill"] == 0, "the groups of a leader that was killed are gone"
    assert len(set(found["before"])) == len(set(found["after"])) == 2, "a rank on each node"
    assert not found["same"], "new processes after a loss"
    assert found["failed"] == {}
    assert found["error"] < 1e-5
    assert (found["held"], found["after draining"]) == (1, 0), "it gives its groups back"
    assert found["snapshot"] == 2, "the one of its last step, written when a rank's node was drained"
    assert "has stopped" in found["health"], "Serve starts another elsewhere"

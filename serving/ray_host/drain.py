"""Empty a node of a Ray cluster before it goes: ``python -m zoetrope.serving.ray_host.drain --seconds N``, as the
preStop hook of a worker.

Serve starts other replicas elsewhere and stops those of the node once they run, or as late as they need to stop in
order; engines hand their segments over. This returns as soon as nothing of ours is left there, or after N seconds.
"""

from __future__ import annotations

import argparse
import sys
import time

from ray._private.services import canonicalize_bootstrap_address_or_die, get_node_ip_address
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions  # type: ignore[attr-defined]  # it is compiled

from zoetrope.cluster.engine.draining import drain_node
from zoetrope.cluster.engine.rank_process import RankProcess

POLL_SECONDS = 0.5


def main() -> int:
    """Drain the node; the exit status is 1 if something of ours is still there after the time, or none is meant."""
    parser = argparse.ArgumentParser(description="Empty a node of a Ray cluster before it goes.")
    parser.add_argument("--seconds", type=int, required=True, help="until the node goes, at least 1")
    parser.add_argument("--node", default="", help="its id in Ray; empty: the one at this machine's address")
    parser.add_argument("--address", default="auto", help="of the cluster")
    arguments = parser.parse_args()
    if arguments.seconds < 1:
        parser.error(f"--seconds is {arguments.seconds}: it must be at least 1")
    cluster = Cluster(canonicalize_bootstrap_address_or_die(arguments.address))
    try:
        node = arguments.node or cluster.node_at(get_node_ip_address())
        left = cluster.drain(node, arguments.seconds)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{left} replicas and ranks are left on node {node}" if left else f"node {node} is empty", flush=True)
    return int(left > 0)


class Cluster:
    """A Ray cluster as its head knows it. No driver: that would end with the node's raylet, which goes once it is
    empty."""

    def __init__(self, address: str) -> None:
        """``address``: HOST:PORT of the head."""
        self._address = address
        self._state = GlobalState()
        self._state._initialize_global_state(
            GcsClientOptions.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=True)
        )

    def node_at(self, address: str) -> str:
        """Return the id of the only live node at an IP address.

        Raises:
            ValueError: there is none, or there are several.
        """
        nodes = [node for node in self._state.node_table() if node["Alive"] and node["NodeManagerAddress"] == address]
        if len(nodes) != 1:
            raise ValueError(f"--node: {len(nodes)} nodes of the cluster are at {address}, say which one")
        found: str = nodes[0]["NodeID"]
        return found

    def drain(self, node: str, seconds: float) -> int:
        """Say that a node goes after so many seconds, and wait until no replica and no rank is left on it.

        Returns:
            How many are left after the time.

        Raises:
            ValueError: Ray does not accept it.
        """
        end = time.time() + seconds
        drain_node(self._address, node, end)
        while (left := self._parts_on(node)) and time.time() < end:
            time.sleep(POLL_SECONDS)
        return left

    def _parts_on(self, node: str) -> int:
        """Count the replicas and ranks; Serve's own actors stay."""
        actors = self._state.actor_table(None, None, "ALIVE").values()
        kinds = [actor["ActorClassName"] for actor in actors if actor["Address"]["NodeID"] == node]
        return sum(kind.startswith(("ServeReplica", RankProcess.__name__)) for kind in kinds)


if __name__ == "__main__":
    sys.exit(main())

"""Empty a node of a Ray cluster before it goes: ``python -m zoetrope.serving.ray_host.drain --seconds N``, as the
preStop hook of a worker.

Serve starts other replicas elsewhere and stops those of the node once they run, or as late as they need to stop in
order; engines hand their segments over. This returns as soon as nothing of ours is left there, or after N seconds.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

import ray
from ray._private.state import state
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from zoetrope.cluster.engine.rank_process import RankProcess

POLL_SECONDS = 0.5


def main() -> int:
    """Drain the node; the exit status is 1 if something of ours is still there after the time."""
    parser = argparse.ArgumentParser(description="Empty a node of a Ray cluster before it goes.")
    parser.add_argument("--seconds", type=int, required=True, help="until the node goes, at least 1")
    parser.add_argument("--node", default="", help="id of the node in Ray; empty: the one that this runs on")
    parser.add_argument("--address", default="auto", help="of the cluster")
    arguments = parser.parse_args()
    if arguments.seconds < 1:
        parser.error(f"--seconds is {arguments.seconds}: it must be at least 1")
    ray.init(address=arguments.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        node = arguments.node or ray.get_runtime_context().get_node_id()
        left = drain(node, arguments.seconds)
    finally:
        ray.shutdown()
    print(f"{left} replicas and ranks are left on node {node}" if left else f"node {node} is empty", flush=True)
    return int(left > 0)


def drain(node: str, seconds: float) -> int:
    """Tell the cluster that a node goes after so many seconds, and wait until no replica and no rank is left on it.

    Returns:
        How many are left after the time.

    Raises:
        RuntimeError: Ray does not accept it.
    """
    end = time.time() + seconds
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    accepted, why = client.drain_node(
        node,
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "the node is taken away",
        int(end * 1000),
    )
    if not accepted:
        raise RuntimeError(f"node {node} cannot be drained: {why}")
    while (left := _actors_on(node)) and time.time() < end:
        time.sleep(POLL_SECONDS)
    return left


def _actors_on(node: str) -> int:
    """Count the replicas and ranks; Serve's own actors stay."""
    here = [a for a in state.actor_table(None, None, "ALIVE").values() if a["Address"]["NodeID"] == node]
    return sum(a["ActorClassName"].startswith(("ServeReplica", RankProcess.__name__)) for a in here)


if __name__ == "__main__":
    sys.exit(main())

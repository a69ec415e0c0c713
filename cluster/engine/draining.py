"""Nodes that are about to leave the Ray cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # it is compiled
from ray.core.generated import autoscaler_pb2
from ray.exceptions import RayError

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 10.0  # for Ray's head
log = logging.getLogger("zoetrope.engine")


def drain_node(address: str, node: str, until: float) -> None:
    """Tell the head of a cluster that a node will be taken away.

    Args:
        address: HOST:PORT of the head. node: its id in Ray. until: when it goes, in seconds since the epoch.

    Raises:
        ValueError: Ray does not accept it.
    """
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")  # type: ignore[attr-defined]
    head = GcsClient(address=address)
    accepted, why = head.drain_node(node, reason, "the node is taken away", int(until * 1000))
    if not accepted:
        raise ValueError(f"node {node} cannot be drained: {why}")


async def watch_nodes(nodes: Callable[[], set[str]], leave: Callable[[str], None]) -> None:
    """Wait until one of the nodes, by their ids in Ray, is being drained, other than that of this process, which is
    Serve's to look after; then call ``leave`` with it, once."""
    context = ray.get_runtime_context()
    here, head = context.get_node_id(), GcsClient(address=context.gcs_address)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        others = nodes() - {here}
        if leaving := others and others & await asyncio.to_thread(_draining_nodes, head):
            leave(min(leaving))
            return


def _draining_nodes(head: GcsClient) -> set[str]:
    """Return the ids of the nodes that are being drained; none while the head is away. Blocks."""
    try:
        return set(head.get_draining_nodes(timeout=ANSWER_SECONDS))
    except RayError as error:
        log.warning("Ray does not say which nodes are drained: %s", type(error).__name__)
        return set()

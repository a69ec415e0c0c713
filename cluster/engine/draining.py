"""Nodes that are about to leave the Ray cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import ray
from ray._private.state import state
from ray.exceptions import RayError

LOOK_SECONDS = 1.0
log = logging.getLogger("zoetrope.engine")


async def watch_nodes(nodes: Callable[[], set[str]], leave: Callable[[str], None]) -> None:
    """Wait until one of the nodes, by their ids in Ray, is being drained, other than that of this process, which is
    Serve's to look after; then call ``leave`` with it, once."""
    here = ray.get_runtime_context().get_node_id()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        others = nodes() - {here}
        if leaving := others and others & await asyncio.to_thread(draining_nodes):
            leave(min(leaving))
            return


def draining_nodes() -> set[str]:
    """Return the ids of the nodes that are being drained, as Serve itself reads them; none while Ray's head is away.
    Blocks."""
    try:
        return set(state.get_draining_nodes())
    except (RayError, RuntimeError, OSError) as error:
        log.warning("Ray does not say which nodes are drained: %s", error)
        return set()

"""Set up each Ray worker process; Ray calls `set_up` before anything else."""

from __future__ import annotations

from ray._common import tls_utils

from zoetrope.serving.ray_host import cluster_log


def set_up() -> None:
    """Send the worker's log to the cluster log and keep its replicas off the network."""
    cluster_log.set_up()
    _close_replicas()


def _close_replicas() -> None:
    """Keep Serve from opening a port on every interface for each replica, which unpickles anything that comes with the
    right token. No setting prevents it. Handles use the port only with RAY_SERVE_USE_GRPC_BY_DEFAULT."""
    tls_utils.add_port_to_grpc_server = lambda server, address: 0

"""What every process of Ray's workers does first: Ray calls `set_up`."""

from __future__ import annotations

from ray._common import tls_utils

from serving import cluster_log


def set_up() -> None:
    cluster_log.set_up()
    _close_replicas()


def _close_replicas() -> None:
    """Serve opens a port on every interface for each replica and unpickles what comes in there with the right token;
    there is no setting against it. Handles do not use it unless told to (RAY_SERVE_USE_GRPC_BY_DEFAULT)."""
    tls_utils.add_port_to_grpc_server = lambda server, address: 0

"""The rendezvous of a gang's ranks, on the node's own address only, because it is not authenticated."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import psutil
import ray
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]


def meet(address: str, ranks: int, timeout: timedelta, listener: socket.socket | None) -> Store:
    """Open the store by which ``ranks`` ranks exchange their addresses, and bind every rank to its node's address.

    Args:
        address: ``host:port`` of the first rank. listener: the first rank's socket, which listens there; torch alone
            would listen on every interface.
    """
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:  # an operator's choice takes precedence
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")
    host, _, port = address.rpartition(":")
    return TCPStore(
        host,
        int(port),
        ranks,
        is_master=listener is not None,
        timeout=timeout,
        master_listen_fd=None if listener is None else listener.detach(),
    )


def interface_of(address: str) -> str | None:
    """Return the network interface of this machine that has the address; None if there is none."""
    for name, parts in psutil.net_if_addrs().items():
        if any(part.address == address for part in parts):
            return str(name)
    return None

"""Throughput of a gateway, with a null engine in place of the router."""

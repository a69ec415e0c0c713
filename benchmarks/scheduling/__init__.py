"""Compares policies of the router on a running service."""

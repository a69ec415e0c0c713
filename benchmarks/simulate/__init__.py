"""Simulate a fleet of engines under a virtual clock, with the router's own policies."""

"""Policies of the router: one small class in a file each, chosen by the setting ``policy``."""

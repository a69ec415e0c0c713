"""Limit what one caller may take of a gateway: memory, threads, slow reads, connections without a key."""

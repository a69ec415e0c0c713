"""Decode untrusted files in confined processes."""

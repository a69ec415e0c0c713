"""Shared by every process that computes: use of cores, lazy imports, errors that travel between processes."""

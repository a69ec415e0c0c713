"""Errors of the database."""

from __future__ import annotations


class StoreError(Exception):
    """The database cannot be opened, read or written; the message names it (without password) in one line."""


class StoreOutdated(StoreError):
    """The database has no tables, or those of an older release, and whoever opened it may not change them."""


class StoreRefused(StoreError):
    """The database refuses a value or a row, and would refuse it again: a retry is useless."""

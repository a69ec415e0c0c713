"""Transactions in SQLite and PostgreSQL."""

"""Measure how much faster a service makes many small jobs together than one after another."""

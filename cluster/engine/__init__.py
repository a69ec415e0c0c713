"""Run an engine: its leader, its gang of ranks, and what it says to its router."""

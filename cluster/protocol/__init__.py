"""The messages between router, engine and ranks: plain data. Needs no torch."""

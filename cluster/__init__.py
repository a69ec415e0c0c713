"""Where the model runs: engines, their gangs and ranks, and the messages between an engine and its router."""

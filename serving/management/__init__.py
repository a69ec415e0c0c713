"""The management port of a process: probes and metrics, in plain HTTP."""

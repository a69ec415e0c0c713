"""What the processes tell of themselves: metrics, traces and logs. Needs no torch."""

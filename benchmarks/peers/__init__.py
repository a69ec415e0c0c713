"""The same clip by other projects' servers and pipelines and by ours, on one machine, in one run."""

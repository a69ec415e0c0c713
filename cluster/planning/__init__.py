"""Plan gangs: how many ranks share what, whether it fits, where they go, and what a step costs."""

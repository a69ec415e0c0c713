"""Choose the implementation of an operation, and say why."""

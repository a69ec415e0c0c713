"""The public operations: each checks its arguments and chooses an implementation."""

"""How long a rank takes from its process to its first job, by phase: one after the other, and as it is done now."""

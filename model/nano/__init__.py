"""nano: a small trained Wan-shaped model in the repository. Its world, its training and its evaluation."""

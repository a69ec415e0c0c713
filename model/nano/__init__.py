"""nano: a small trained Wan-shaped model in the repository, with its world, training and evaluation."""

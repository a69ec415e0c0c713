"""Every operation in plain torch: used on CPUs, for gradients, and as the reference of the tests."""

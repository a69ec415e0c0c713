"""What every kernel computes, in plain torch: the CPU's path, the path of gradients, and the yardstick of the tests."""

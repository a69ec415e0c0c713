"""Compile every variant of the kernels without a GPU, and check the result."""

"""Measurements: throughput, kernels, layers, quality. May import every floor; nothing imports it."""

"""Measurements: throughput, kernels, layers, quality. May import every floor; nothing imports it."""

from model.threads import wait_passively

wait_passively()  # as a service's processes do, and before a benchmark loads torch

"""Benchmarks: kernels, steps, serving, quality, peers. May import every floor; nothing imports them."""

from zoetrope.model.runtime.threads import wait_passively

wait_passively()  # as a service's processes do; must precede the import of torch

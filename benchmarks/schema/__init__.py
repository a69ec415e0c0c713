"""What result files hold: one header for all, and the figures of each benchmark.

A test holds every committed file against it, and `benchmarks.smoke` what every benchmark writes.
"""

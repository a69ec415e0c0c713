"""What benchmarks raise."""


class BenchmarkError(Exception):
    """The measurement is not possible; the message is one line."""

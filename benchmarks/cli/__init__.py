"""`zoetrope bench`: the benchmarks that users run. `zoetrope` finds it by an entry point in pyproject.toml."""

from zoetrope.benchmarks.cli.group import app

__all__ = ["app"]

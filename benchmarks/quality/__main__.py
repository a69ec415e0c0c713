"""``python -m zoetrope.benchmarks.quality`` and `zoetrope bench quality`: see `run`, which loads the models."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what every option that makes clips faster or smaller costs in quality, on nano, and what it gains."""
    from zoetrope.benchmarks.quality.run import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())

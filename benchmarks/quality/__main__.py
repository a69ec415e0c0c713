"""``python -m zoetrope.benchmarks.quality`` and `zoetrope bench quality`: see `run`, which loads the models."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what each faster or smaller way gains, and costs nano."""
    from zoetrope.benchmarks.quality.run import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m zoetrope.benchmarks.serving_load``: the same as `zoetrope bench serve`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from zoetrope.serving.cli import main as zoetrope


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure a server under load; see `zoetrope bench serve --help`."""
    return zoetrope(["bench", "serve", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())

"""Make one clip with each project on this machine, and compare. Each has its own command, and the same checkpoint.

    python -m zoetrope.benchmarks.peers --out benchmarks/results/peers

diffusers runs in our environment. The others pin packages of their own, so each is looked for in an environment that
--peer names (``--peer sglang=/path/to/python``, repeatable); without it, in ours. What is missing is listed as not run.
Without --model, a tiny dense checkpoint with random weights is made (`packed_throughput.dense`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Make one clip with each project on this machine, and compare."""
    from zoetrope.benchmarks.peers.run import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())

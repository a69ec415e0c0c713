"""Compare with other projects on this machine: the same clip of the same checkpoint, each by its own command.

    python -m zoetrope.benchmarks.peers --out benchmarks/results/peers

diffusers runs in our environment. The others pin packages of their own, so each is looked for in an environment that
--peer names (``--peer sglang=/path/to/python``, repeatable); without it, in ours. What is missing is listed as not run.
Without --model, a tiny dense checkpoint with random weights is made (`packed_throughput.dense`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare with other projects on this machine: the same clip of the same checkpoint, each by its own command."""
    from zoetrope.benchmarks.peers.run import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Plot the runs: how many jobs were done within a multiple of what they take alone, by policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from zoetrope.benchmarks.kernels.peers import installed
from zoetrope.benchmarks.simulate.metrics import Outcome

POINTS = 200  # of each line


def plot(runs: Mapping[str, Sequence[Outcome]], slo: float, title: str, path: Path) -> str | None:
    """Write a PNG; returns the reason if there is none. Needs matplotlib (the extra ``bench``).

    Args:
        runs: outcomes by policy. slo: the multiple of the objective.
    """
    missing = installed("matplotlib")
    if missing:
        return f"{missing}: pip install '.[bench]'"
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (shares, times) = pyplot.subplots(1, 2, figsize=(12, 4.5))
    for name, outcomes in runs.items():
        slowdowns = sorted(o.latency / o.solo for o in outcomes if o.latency is not None)
        latencies = sorted(o.latency for o in outcomes if o.latency is not None)
        if not slowdowns:
            continue
        places = sorted({round(n * (len(slowdowns) - 1) / POINTS) for n in range(POINTS + 1)})
        done = [(place + 1) / len(outcomes) for place in places]
        shares.plot([slowdowns[place] for place in places], done, label=name)
        times.plot([latencies[place] for place in places], done, label=name)
    shares.axvline(slo, color="grey", linestyle=":", label=f"objective: {slo:g}")
    shares.set_xlabel("latency / what the job takes alone")
    times.set_xlabel("latency, seconds")
    for axis in (shares, times):
        axis.set_xscale("log")
        axis.set_ylim(0, 1)
        axis.set_ylabel("share of jobs done")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return None

"""Writes the table of benchmarks/README.md, from the registry and the committed results.

python -m tests.docs.benchmarks_table
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.docs.tables import put_table
from zoetrope.benchmarks.provenance import REPOSITORY
from zoetrope.benchmarks.registry import BENCHMARKS
from zoetrope.benchmarks.results_files import RESULTS, read_results

HEAD = ("| benchmark | measures | needs | committed results | measured on |", "| --- | --- | --- | --- | --- |")
README = REPOSITORY / "benchmarks" / "README.md"
NEEDS = {"": "", "gpu": "a GPU", "deepspeed": "DeepSpeed", "aiperf": "AIPerf", "history": "an older commit"}


def rows() -> Iterator[str]:
    """Yield the lines of the table."""
    links: defaultdict[str, list[str]] = defaultdict(list)
    places: defaultdict[str, set[str]] = defaultdict(set)
    for result in read_results():
        page = result.path if result.page is None else result.path.with_suffix(".md")
        links[result.benchmark.name].append(f"[{result.path.stem}](results/{page.relative_to(RESULTS)})")
        device = result.header.device
        places[result.benchmark.name].add("CPU" if device is None or device.endswith("CPU") else device)
    for name, benchmark in BENCHMARKS.items():
        results = ", ".join(links[name]) or ("none" if benchmark.record is not None else "prints only")
        where = ", ".join(sorted(places[name]))
        yield f"| `{name}` | {benchmark.measures} | {NEEDS[benchmark.needs]} | {results} | {where} |"


def table() -> str:
    """Return the table."""
    return "\n".join((*HEAD, *rows()))


if __name__ == "__main__":
    put_table(README, HEAD[0], table())

"""Make one HTML page of all results, with tables and plots.

    python -m zoetrope.benchmarks.report --out out/benchmarks.html

It needs no network. Each result stands with its command, commit, date and machine; benchmarks without results are
listed too.
"""

from __future__ import annotations

import base64
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from zoetrope.benchmarks import command
from zoetrope.benchmarks.provenance import commit_of
from zoetrope.benchmarks.registry import BENCHMARKS
from zoetrope.benchmarks.report_charts import charts_of
from zoetrope.benchmarks.results_files import RESULTS, ResultError, ResultFile, read_results
from zoetrope.benchmarks.schema.header import ResultHeader

OUT = Path("out/benchmarks.html")
NEEDS = {
    "": "",
    "gpu": " (needs a GPU)",
    "deepspeed": " (needs DeepSpeed)",
    "aiperf": " (needs AIPerf)",
    "history": " (needs an older commit)",
}
UNKNOWN = "a machine that is not described"
NO_PAGE = "This benchmark makes no page; its figures are in the JSON file."
KINDS = {".png": "image/png", ".svg": "image/svg+xml", ".webp": "image/webp"}
STYLE = """
:root { color-scheme: light dark; --line: #8885; --bar: #4878a8; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; display: block; overflow-x: auto; }
td, th { border: 1px solid var(--line); padding: .2rem .5rem; text-align: left; }
code { font-size: 13px; overflow-wrap: anywhere; }
section { border-top: 2px solid var(--line); margin-top: 2.5rem; }
.where { opacity: .8; font-size: 13px; }
img, svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
svg rect { fill: var(--bar); }
"""


def html_page(results: Sequence[ResultFile]) -> str:
    """Return the page of these results."""
    made = sorted(results, key=lambda result: (result.benchmark.name, str(result.path)))
    measured = {result.benchmark.name for result in made}
    lacking = [one for one in BENCHMARKS.values() if one.record is not None and one.name not in measured]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>Zoetrope: benchmarks</title><style>{STYLE}</style></head><body>",
        "<h1>Benchmarks</h1>",
        f"<p>{len(made)} result files. Each figure was written by the command above it.</p>",
        "<table><thead><tr><th>benchmark</th><th>measures</th><th>date</th><th>commit</th></tr></thead><tbody>",
        *(_row(result) for result in made),
        "</tbody></table>",
        "<h2>Machines</h2>",
        *_machines(made),
        *_lacking(f"{one.name}: {one.measures}{NEEDS[one.needs]}" for one in lacking),
        *(_section(result) for result in made),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _anchor(result: ResultFile) -> str:
    return re.sub(r"\W+", "-", f"{result.path.parent.name}-{result.path.stem}")


def _row(result: ResultFile) -> str:
    header = result.header
    cells = [
        f'<a href="#{_anchor(result)}">{escape(result.path.stem)}</a>',
        escape(result.benchmark.measures),
        escape(header.date[:10]),
        f"<code>{escape((header.commit or 'unknown')[:8])}</code>{' with changes' if header.changed else ''}",
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def machine_of(header: ResultHeader) -> str:
    """Return the machine of a result in words."""
    about = header.machine
    gpu = [header.device] if header.device and not header.device.endswith("CPU") else []
    if about is None:
        return header.device or UNKNOWN
    return ", ".join([*gpu, about.processor, f"{about.usable_cores} of {about.cores} cores"])


def _machines(results: Iterable[ResultFile]) -> list[str]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for result in results:
        found[machine_of(result.header)].append(result.path.stem)
    rows = [f"<li>{escape(machine)}: {escape(', '.join(names))}</li>" for machine, names in sorted(found.items())]
    return ["<ul>", *rows, "</ul>"]


def _lacking(lines: Iterable[str]) -> list[str]:
    items = [f"<li>{escape(line)}</li>" for line in lines]
    return ["<h2>Not measured</h2>", "<ul>", *items, "</ul>"] if items else []


def _section(result: ResultFile) -> str:
    header = result.header
    load = "" if header.machine is None else f", load average {header.machine.load_average[0]:.2f} before"
    title, _, text = (result.page or f"# {result.path.stem}\n").partition("\n")
    parts = [
        f'<section id="{_anchor(result)}">',
        _html(title),
        f"<p><code>{escape(header.command)}</code></p>",
        f'<p class="where">{escape(header.date)}, {escape(commit_of(header.model_dump()))}; '
        f"{escape(machine_of(header))}{load}</p>",
        *_plots(result),
    ]
    for chart in charts_of(result.benchmark.name, result.record):
        parts += [f"<h3>{escape(chart.title)}</h3>", chart.svg()]
    parts.append(f"<p>{NO_PAGE}</p>" if result.page is None else _html(_with_pictures(text, result)))
    return "\n".join([*parts, "</section>"])


def _html(page: str) -> str:
    """Return a page of results as HTML; what looks like HTML in it is shown, not obeyed."""
    lowered = re.sub(r"^(#+) ", r"#\1 ", page, flags=re.MULTILINE)
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(lowered))


def _plots(result: ResultFile) -> list[str]:
    """Return the pictures beside a result file that its page does not show."""
    return [
        f'<img src="{_data(path)}" alt="{escape(path.stem, quote=True)}">'
        for path in _pictures(result)
        if f"({path.name})" not in (result.page or "")
    ]


def _with_pictures(text: str, result: ResultFile) -> str:
    """Return the text of a page with the pictures beside it as part of it."""
    for path in _pictures(result):
        text = text.replace(f"({path.name})", f"({_data(path)})")
    return text


def _pictures(result: ResultFile) -> list[Path]:
    """Return the pictures beside a result file: those whose names begin with its name."""
    stem = result.path.stem
    beside = sorted(result.path.parent.glob(f"{stem}*"))
    return [path for path in beside if path.suffix in KINDS and f"{path.stem}-".startswith(f"{stem}-")]


def _data(path: Path) -> str:
    return f"data:{KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("report", __doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results (default: the committed)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the page (default: {OUT})")
    args = parser.parse_args(arguments)
    if not args.results.is_dir():
        parser.error(f"--results: {args.results} must be a folder")
    try:
        results = read_results(args.results)
    except ResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(html_page(results))
    print(f"{args.out}: {len(results)} results of {len({one.benchmark.name for one in results})} benchmarks")
    return 0


if __name__ == "__main__":
    sys.exit(main())

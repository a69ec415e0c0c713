"""The page of all results: complete, in one file, and safe to open."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from zoetrope.benchmarks.registry import BENCHMARKS
from zoetrope.benchmarks.report import main
from zoetrope.benchmarks.report_charts import CHARTS, Chart, charts_of
from zoetrope.benchmarks.results_files import RESULTS

VOID = {"meta", "img", "rect", "br", "hr"}


class Outline(HTMLParser):
    """The tags that are open, addresses, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [value for name in ("src", "href") if (value := given.get(name))]
        self.ids |= {given["id"]} if given.get("id") else set()  # type: ignore[arg-type]  # it has one
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_of_the_committed_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deeper" / "page.html"
    assert main(["--out", str(out)]) == 0
    assert "results of" in capsys.readouterr().out
    outline = Outline(out.read_text())
    assert outline.open == [], "every tag is closed"
    for address in outline.addresses:
        assert address.startswith("data:image/") or address[1:] in outline.ids, "nothing is loaded from elsewhere"
    assert any(address.startswith("data:image/png") for address in outline.addresses)
    scaling = json.loads((RESULTS / "scaling.json").read_text())["environment"]
    assert scaling["command"] in outline.text and scaling["commit"] in outline.text
    row = next(line for line in (RESULTS / "eta-error.md").read_text().splitlines() if line.startswith("| queued"))
    assert all(cell.strip() in outline.text for cell in row.split("|"))
    assert "forward_graphs" in outline.text, "what was not measured is said"


def test_what_looks_like_a_tag_is_shown(tmp_path: Path) -> None:
    for name in ("adapters.json", "adapters.md"):
        (tmp_path / name).write_text((RESULTS / name).read_text())
    record = json.loads((tmp_path / "adapters.json").read_text())
    record["environment"]["command"] += " <script>alert(1)</script>"
    (tmp_path / "adapters.json").write_text(json.dumps(record))
    with (tmp_path / "adapters.md").open("a") as page:
        page.write("\n<script>alert(2)</script>\n")
    assert main(["--results", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert {f"alert({number})" for number in (1, 2)} <= set(re.findall(r"alert\(\d\)", text))


def test_what_is_no_result_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text('{"environment": {"command": "rm"}}')
    assert main(["--results", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 1
    assert "command" in capsys.readouterr().err and not (tmp_path / "page.html").exists()
    with pytest.raises(SystemExit):
        main(["--results", str(tmp_path / "none")])
    assert "must be a folder" in capsys.readouterr().err


def test_bars_are_as_long_as_their_values() -> None:
    svg = Chart('a "chart"', "ms", [("a<b", 2.0), ("c", 1.0), ("none", 0.0)]).svg()
    first, second, third = (float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', svg))
    assert first == pytest.approx(2 * second) and third == 0
    assert "a&lt;b" in svg and "&quot;chart&quot;" in svg and "2 ms" in svg
    assert "<rect" not in Chart("nothing", "s", []).svg()


def test_charts_are_of_benchmarks_and_show_what_the_file_says() -> None:
    assert CHARTS.keys() <= BENCHMARKS.keys()
    record = json.loads((RESULTS / "compile-gain.json").read_text())
    (chart,) = charts_of("compile_gain", record)
    assert [value for _, value in chart.bars] == [rung["gain"] for rung in record["rungs"]]
    assert charts_of("step", {}) == []

"""Figures in the documents are those of the committed results, and no figure stands beside a result without a claim."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import dropwhile, takewhile
from statistics import fmean

import pytest

from tests.docs import figures, nano_table
from tests.docs.figures import CLAIMS, Claim, load
from tests.docs.pages import PAGES, ROOT
from tests.serving.soak import record as soak
from zoetrope.benchmarks.results_files import RESULTS
from zoetrope.model.nano.report import markdown

TARGET = re.compile(r"\]\(([^)\s]+)\)")
NAMES = re.compile(r"\b(float32|bfloat16|bf16|fp8|int8|8-bit|8 bits)\b")
PLAIN = {"docs/operations/runbook.md": "4 CPUs for router and stages"}  # what is reserved, not measured
HISTORY = ("CHANGELOG.md", "benchmarks/README.md")  # what was, and how results look: they quote no figures


def links_to(text: str) -> set[str]:
    """The results that a text links to, by name."""
    return set(re.findall(r"benchmarks/results/([\w.-]+?)\.(?:md|json)\b", " ".join(TARGET.findall(text))))


def sentences(page: str) -> Iterator[str]:
    """The rows of tables, and the sentences of other text, that link to a result, each in one line."""
    for block in re.split(r"\n\s*\n|\n(?=[|*] )", (ROOT / page).read_text()):
        line = " ".join(block.split())
        for sentence in [line] if line.startswith("|") else re.split(r"(?<=[.:]) (?=[A-Z*])", line):
            if links_to(sentence):
                yield sentence


def lacks(claim: Claim) -> list[str]:
    """What the page should say about the result, and does not."""
    told = [sentence for sentence in sentences(claim.page) if claim.result in links_to(sentence)]
    return [text for text in claim.texts() if not any(text in sentence for sentence in told)]


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_a_page_says_what_the_result_says(claim: Claim) -> None:
    assert lacks(claim) == [], f"{claim.page} has to say this of {claim.result}"


@pytest.mark.parametrize(
    "page", [name for path in PAGES if (name := str(path.relative_to(ROOT))) not in HISTORY and list(sentences(name))]
)
def test_no_figure_beside_a_result_is_without_a_claim(page: str) -> None:
    claimed = [(claim.result, text) for claim in CLAIMS if claim.page == page for text in claim.texts()]
    for sentence in sentences(page):
        assert unclaimed(sentence.replace(PLAIN.get(page, "|"), ""), claimed) == [], f"{page}: {sentence}"


def unclaimed(sentence: str, claimed: list[tuple[str, str]]) -> list[str]:
    """The numbers of a sentence that no claim covers."""
    left, found = sentence, links_to(sentence)
    for text in sorted((text for result, text in claimed if result in found), key=len, reverse=True):
        left = left.replace(text, "")
    left = re.sub(r"`[^`]*`", "", TARGET.sub("", left))
    return re.findall(r"\d[\d.,]*", NAMES.sub("", left))


def test_other_figures_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = next(claim for claim in CLAIMS if claim.result == "eta-error")
    record = json.loads((RESULTS / "eta-error.json").read_text())
    for row in record["rows"]:
        row["median"] += 0.01
    monkeypatch.setattr(figures, "load", lambda name: record)
    assert lacks(claim) and not lacks(replace(claim, says=lambda _: ("of the job's duration",)))
    row = "| how fast? | 3 times, or 4.5 s in 8 bits. [All](../benchmarks/results/eta-error.md) | `make 5` |"
    assert unclaimed(row, [("eta-error", "3 times")]) == ["4.5"]
    assert unclaimed(row, [("busy", "3 times")]) == ["3", "4.5"]


def test_nano_in_four_steps_is_told_by_its_figures() -> None:
    """Its page is written by hand, from two files: of each case, the clip in four steps and the exact one."""
    record, page = load("nano-4step.json"), (RESULTS / "nano-4step.md").read_text()
    exact = load("quantized-quality-clips.json")["clips"]
    for kind, task in record["tasks"].items():
        table = page.partition(f"| {kind} |")[2].partition("\n\n")[0].splitlines()[2:]
        rows = []
        for name, row in task["measures"].items():
            clips = [clip["measures"] for clip in exact[kind][: task["cases"]]]
            before = fmean(clip[name][0] for clip in clips if name in clip) * (100 if row["unit"] == "%" else 1)
            digits = {"%": 1, "dB": 2, "IoU": 3}[row["unit"]]
            cases = "" if row["cases"] == task["cases"] else f" ({row['cases']} cases)"
            cells = [f"{name}{cases}, {row['unit']}", f"{before:.{digits}f}", f"{row['value']:.{digits}f}"]
            target = "" if row["target"] is None else f"{row['target']:g}"
            cells += [f"{round(row['value'] - before, 3) + 0.0:+.{digits}f}", target]
            rows.append(f"| {' | '.join(cells)} |")
        assert table == rows, kind


@pytest.mark.parametrize("page, before", [("README.md", "\nMeasured on"), ("docs/benchmarks.md", "\n| question |")])
def test_every_row_of_figures_links_to_its_result(page: str, before: str) -> None:
    """So that the test above sees it."""
    lines = (ROOT / page).read_text().partition(before)[2].splitlines()
    table = list(takewhile(lambda line: line.startswith("|"), dropwhile(lambda line: not line.startswith("| "), lines)))
    assert len(table) > 2
    for row in table:
        told = re.sub(r"`[^`]*`", "", TARGET.sub("", row))
        assert links_to(row) or not re.search(r"\d", told), row


def test_the_table_of_nano_is_that_of_its_evaluation() -> None:
    assert nano_table.table() in (ROOT / "docs" / "nano.md").read_text(), "python -m tests.docs.nano_table"
    record = load("nano.json")
    assert f"{record['command']}\n" in (ROOT / "docs" / "nano.md").read_text()
    assert markdown(dict(record), record["command"]) == (RESULTS / "nano.md").read_text()


def test_the_page_of_the_soak_is_that_of_its_record() -> None:
    assert soak.page(load("soak.json")) == (RESULTS / "soak.md").read_text()


def test_nano_is_as_large_and_was_trained_as_long_as_the_documents_say() -> None:
    training = json.loads((ROOT / "model" / "nano" / "weights" / "training.json").read_text())
    size = f"{training['parameters'] / 1e6:.1f}"
    page = " ".join((ROOT / "docs" / "nano.md").read_text().split())
    assert f"{size} million parameters" in page
    assert f"{training['clips']:,} clips in {training['seconds'] / 60:.0f} minutes" in page
    assert f"{size}-million-parameter" in " ".join((ROOT / "README.md").read_text().split())
    layers = {"five": 5}[re.findall(r"(\w+) layers, sixteen experts", page)[0]]
    config = json.loads((ROOT / "model" / "nano" / "weights" / "transformer" / "config.json").read_text())
    assert config["num_layers"] == layers

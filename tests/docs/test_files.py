"""Files, functions and links that the documents name are there."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import ROOT, Snippet, links, spans

FOLDERS = "benchmarks|cluster|docs|examples|k8s|kernels|model|serving|tests|zoetrope"
FILES = [span for span in spans() if re.fullmatch(rf"({FOLDERS})/[\w./-]*(::[\w.]+)?", span.text)]
CONTRIBUTING = (ROOT / "docs" / "contributing.md").read_text()
MOST_FILES = 3


def defined(source: str, name: str) -> bool:
    """Whether some code defines a class, a function, or a method as Class.method."""
    return all(re.search(rf"^ *(async )?(def|class) {part}\b", source, re.MULTILINE) for part in name.split("."))


@pytest.mark.parametrize("span", FILES, ids=str)
def test_a_file_is_there(span: Snippet) -> None:
    path, _, name = span.text.partition("::")
    assert (ROOT / path).exists()
    assert not name or defined((ROOT / path).read_text(), name)


@pytest.mark.parametrize("link", [link for link in links() if not urlsplit(link.text).scheme], ids=str)
def test_a_link_leads_to_a_file(link: Snippet) -> None:
    target = link.text.partition("#")[0]
    assert not target or ((ROOT / link.page).parent / target).exists()


def test_the_documents_name_many() -> None:
    assert len(FILES) > 60


def test_ten_changes_take_at_most_three_files_each() -> None:
    table = CONTRIBUTING.partition("## Ten changes")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")][2:]
    files = {change.strip(): re.findall(r"`([^`]+)`", places) for change, places in rows}
    assert len(files) == 10
    assert {change: places for change, places in files.items() if not 0 < len(places) <= MOST_FILES} == {}


def test_every_example_is_listed() -> None:
    scripts = {path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".sh")}
    for page in ("docs/apis/index.md", "examples/README.md"):
        assert set(re.findall(r"examples/(\w+\.(?:py|sh))", (ROOT / page).read_text())) == scripts, page


def test_a_missing_name_is_seen() -> None:
    source = (ROOT / "serving/router/scheduler.py").read_text()
    assert defined(source, "decide") and not defined(source, "decided")

"""The site builds without a warning, and its pages load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

REMOTE = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>|url\(https?:")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_it(site: Path) -> None:
    docs = ROOT / "docs"
    pages = [page.relative_to(docs).with_suffix(".html") for page in PAGES if page.is_relative_to(docs)]
    assert [page for page in pages if not (site / page).is_file()] == []
    assert (site / "results" / "gateway.html").is_file()


def test_it_needs_no_network(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 20
    found = {str(path.relative_to(site)): REMOTE.findall(path.read_text()) for path in files}
    assert {name: matches for name, matches in found.items() if matches} == {}


def test_no_page_needs_a_script_that_draws() -> None:
    """Material fetches Mermaid from elsewhere."""
    assert [page.name for page in PAGES if "```mermaid" in page.read_text()] == []

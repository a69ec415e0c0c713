"""Adds the pages that live beside what they describe: benchmark results and the kernels' README.

On GitHub their links work as they are; in the site the same files are pages of their own.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    **{f"benchmarks/results/{path.name}": f"results/{path.name}" for path in (ROOT / "benchmarks/results").glob("*.*")},
    "benchmarks/README.md": "benchmarks-readme.md",
    "kernels/README.md": "kernels-readme.md",
    "kernels/check/compile_check.md": "compile-check.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the outside pages under the addresses that they have in the site."""
    for source, target in OUTSIDE.items():
        if not source.endswith(".json"):
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links between the repository's files at the pages that these are in the site."""
    source = {target: source for source, target in OUTSIDE.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def replace(match: re.Match[str]) -> str:
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        target = OUTSIDE.get(place, place.removeprefix("docs/") if place.startswith("docs/") else None)
        if target is None or ":" in match[2]:
            return match[0]
        relative = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")
        return f"{match[1]}{relative}{match[3] or ''})"

    return LINK.sub(replace, markdown)

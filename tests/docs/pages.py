"""The documents as tests read them: code blocks, code spans and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "kernels" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Snippet:
    """Some text of a page, and where it is."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {' '.join(self.text.split())[:60]}"


def blocks(*languages: str) -> list[Snippet]:
    """Return the code blocks in these languages, of all pages."""
    return [
        Snippet(_name(page), page.read_text()[: match.start()].count("\n") + 2, match[2])
        for page in PAGES
        for match in BLOCK.finditer(page.read_text())
        if match[1] in languages
    ]


def spans() -> list[Snippet]:
    """Return the code spans of all pages, those in blocks left out."""
    return _found(SPAN)


def links() -> list[Snippet]:
    """Return the targets of all links and pictures."""
    return _found(LINK)


def commands() -> list[tuple[Snippet, list[str]]]:
    """Return each command of the shell blocks, as words; variables in front and `&` behind are left out."""
    found = []
    for block in blocks("sh", "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
                words = words[1:]
            if words and words[0] not in ("for", "done"):
                found.append((Snippet(block.page, block.line, line.strip()), [word for word in words if word != "&"]))
    return found


def _found(pattern: re.Pattern[str]) -> list[Snippet]:
    snippets = []
    for page in PAGES:
        text = BLOCK.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())
        for match in pattern.finditer(text):
            snippets.append(Snippet(_name(page), text[: match.start()].count("\n") + 1, match[1]))
    return snippets


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))

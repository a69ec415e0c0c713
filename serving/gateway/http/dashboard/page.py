"""The page as one document: its style and scripts, which are files of their own, are put in and allowed by hash."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

STATIC = files("zoetrope.serving.gateway.http").joinpath("static")
STYLE = re.compile(r'<link rel="stylesheet" href="([\w.]+)">')
SCRIPT = re.compile(r'<script src="([\w.]+)"></script>')


def _text(name: str) -> str:
    return STATIC.joinpath(name).read_text(encoding="utf-8")


def _assembled() -> str:
    document = STYLE.sub(lambda match: f"<style>\n{_text(match[1])}</style>", _text("dashboard.html"))
    return SCRIPT.sub(lambda match: f"<script>\n{_text(match[1])}</script>", document)


def _hashes_of(tag: str) -> str:
    """Hash the page's own scripts or styles, the only ones that the browser may run (Content Security Policy)."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


PAGE = _assembled()
HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_hashes_of('script')}; style-src {_hashes_of('style')}; connect-src 'self';"
        " img-src blob: data:; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

"""Make exceptions presentable: one line, without the client's own text and without details of this machine."""

from __future__ import annotations

import re

from zoetrope.model.request.specs import VideoSpec

MAX_REASON_CHARS = 300
MAX_TEXT_CHARS = 20_000  # considered of a message
HIDDEN = "..."
MARK = "\0"  # stands for removed text until all is removed
# Starts a traceback, Python's or Ray's (whose first line has addresses and actor ids).
TRACEBACK = re.compile(r"Traceback \(most recent|\bFile \"[^\"]{0,999}\", line \d|ray::|Debug source:")
WINDOWS = re.compile(r"(?<!\w)[A-Za-z]:[\\/]\S+|\\\\\S+")  # C:\path, \\server\share
ESCAPED = re.compile(r"\\[nrt]")  # as in a repr
# Replaced before PLACES, which may contain them.
ADDRESSES = re.compile(
    r"""
      (?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://\S+              # with a scheme
    | (?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\w.]*\w)        # IPv4
    | \[?(?<![\w:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]*(?:%\w+)?(?![\w:])\]?(?::\d+)?  # IPv6
    | (?<![\w.-])(?=[\w.-]*[A-Za-z])[\w.-]+:\d{2,5}(?!\w)           # host:port
    | (?<![\w.-])(?:[A-Za-z0-9_-]+\.)+(?:internal|local|localdomain|lan|svc|com|net|org|io|cloud|corp)\b(?![.\w])
    """,
    re.VERBOSE,
)
PLACES = re.compile(
    r"""
      (?<![\w/.])(?:~[\w-]*|\.{1,2})?/[^\s'":;,()\[\]<>=/][^\s'":;,()\[\]<>]*  # /path, ~/path, ../path
    | (?<![\w/.~@+-])[\w.~@+-]+(?:/[\w.~@+-]+){2,}/?                # a/b/c
    | (?<![\w/.~@+-])[\w.~@+-]+/[\w~@+-]*\.[A-Za-z]\w*              # a/b.c
    | \b0x[0-9A-Fa-f]+                                              # an object's address
    | (?<!\w)(?=\d*[A-Fa-f])[0-9A-Fa-f]{12,}(?!\w)                  # an id of Ray's, a checksum
    | (?<!\w)[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}   # a UUID
    """,
    re.VERBOSE,
)


def presentable(text: str, spec: VideoSpec) -> str:
    """Return one short line that can be shown to the client."""
    text = TRACEBACK.split(text[:MAX_TEXT_CHARS], maxsplit=1)[0]
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    for secret in (" ".join(spec.prompt.split()), " ".join(spec.negative_prompt.split())):
        for written in {secret, repr(secret)[1:-1]} - {""}:
            text = re.sub(rf"(?<!\w){re.escape(written)}(?!\w)", MARK, text)
    text = ESCAPED.sub(" ", WINDOWS.sub(MARK, text))
    return PLACES.sub(MARK, ADDRESSES.sub(MARK, text)).replace(MARK, HIDDEN)[:MAX_REASON_CHARS]


def reason(error: BaseException, spec: VideoSpec) -> str:
    """Return the type of an exception and its presentable message."""
    name = type(error).__name__
    try:
        text = presentable(str(error), spec)
    except Exception:  # its __str__ fails
        text = ""
    return f"{name}: {text}" if text else name

"""Prints the table of the client's methods for docs/apis/python.md, from the code.

python -m tests.docs.client_methods
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from zoetrope.serving.client import AsyncVideoClient
from zoetrope.serving.client.types import ExtendFields, VideoFields

FIELDS = {"create": VideoFields, "extend": ExtendFields}
HEAD = "| method | what it does |\n| --- | --- |"


def methods() -> Iterator[tuple[str, Any]]:
    """The public methods, in the order of the code."""
    for name, method in vars(AsyncVideoClient).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            yield name, method


def signature(name: str, method: Any) -> str:
    """As a call is written, without types."""
    _, *parameters = inspect.signature(method).parameters.values()
    shown = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return name + str(inspect.Signature(shown)).replace(", /", "")


def rows() -> Iterator[str]:
    for name, method in methods():
        text = " ".join((inspect.getdoc(method) or "").partition("\n\n")[0].replace("``", "`").split())
        yield f"| `{signature(name, method)}` | {text} |"


def fields(name: str) -> str:
    """The names that a method takes as ``**fields``."""
    return ", ".join(f"`{field}`" for field in FIELDS[name].__annotations__)


def table() -> str:
    return "\n".join([HEAD, *rows()])


if __name__ == "__main__":
    print(table())
    for name in FIELDS:
        print(f"\n`**fields` of `{name}`: {fields(name)}.")

"""Prints docs/operations/settings.md: every setting, from the code.

python -m tests.docs.settings_page > docs/operations/settings.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from zoetrope.serving.cli.app import app
from zoetrope.serving.config.forms import form_of, shown
from zoetrope.serving.config.settings import Settings

HEAD = """# Settings

Every setting of `zoetrope serve` and `zoetrope gateway` is an environment variable. Those with an option can also be
given on the command line, which wins. `zoetrope settings` lists them with their values on this machine, and `--json`
prints them for programs. This page is the output of `python -m tests.docs.settings_page`.

A list is written with commas, `10.0.0.0/8,192.168.0.0/16`, or as JSON. A value of another form stops the service with
an error that names the variable, the value and the form. A variable that begins with `ZOETROPE_` and is no setting is
told when a service starts, with the nearest name.

| variable | option | form | default | meaning |
| --- | --- | --- | --- | --- |
"""
TAIL = """
The command line and the client read these too:

| variable | option | meaning |
| --- | --- | --- |
| `ZOETROPE_SERVER` | `--server` | Service that commands call, HOST:PORT; https:// in front for TLS. |
| `ZOETROPE_API_KEY` | `--api-key` | API key that is sent. |
| `ZOETROPE_CA` | `--ca` | Certificate authority of the service's certificate, PEM. |
| `ZOETROPE_CLIENT_CERT` | `--client-cert` | Certificate to show to the service, PEM. |
| `ZOETROPE_CLIENT_KEY` | `--client-key` | Private key of that certificate, PEM. |
| `ZOETROPE_DEBUG` | | 1: show tracebacks in place of one-line errors. |
"""


def rows() -> Iterator[str]:
    """Lines of the table, in the order of the settings."""
    commands: Any = get_command(app)
    options = {parameter.name: parameter.opts[0] for parameter in commands.commands["serve"].params}
    for name, field in Settings.model_fields.items():
        option = f"`{options[name]}`" if name in options else ""
        cells = (f"`ZOETROPE_{name.upper()}`", option, form_of(name, field), _code(field.default), field.description)
        yield f"| {' | '.join(map(str, cells))} |"


def _code(value: object) -> str:
    text = shown(value)
    return f"`{text}`" if text else ""


def page() -> str:
    """The whole page."""
    return HEAD + "\n".join(rows()) + "\n" + TAIL


if __name__ == "__main__":
    print(page(), end="")

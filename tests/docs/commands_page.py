"""Prints docs/commands.md: every command with its options, from the code.

python -m tests.docs.commands_page > docs/commands.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from zoetrope.serving.cli.app import app

CONNECTION = ("server", "api_key", "ca", "client_cert", "client_key")
HEAD = """# Commands

Every command says the same with `--help`. This page is the output of `python -m tests.docs.commands_page`.

Commands that call a service take `--server`, `--api-key`, `--ca`, `--client-cert` and `--client-key` too, or the
variables in [Settings](operations/settings.md). They are marked *service* here.
"""


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each command that does something, with its full name."""
    for word, part in getattr(command, "commands", {}).items():
        yield from commands(part, f"{name} {word}")
    if not hasattr(command, "commands") or command.invoke_without_command:
        yield name, command


def section(name: str, command: Any) -> Iterator[str]:
    """Lines of Markdown."""
    context = command.make_context(name, [], resilient_parsing=True)
    called = any(parameter.name == "server" for parameter in command.params)
    yield f"\n## {name}\n\n{' '.join((command.help or '').split())}" + (" *service*" if called else "")
    shown = [parameter for parameter in command.params if parameter.name not in CONNECTION]
    records = [record for parameter in shown if (record := parameter.get_help_record(context))]  # None: it is hidden
    if records:
        yield "\n| | |\n| --- | --- |"
    for words, meaning in records:
        text = " ".join(meaning.split()).replace("|", "\\|").replace("<", "&lt;")
        yield f"| `{words}` | {text} |"


def page() -> str:
    """The whole page."""
    lines = [line for name, command in commands(get_command(app), "zoetrope") for line in section(name, command)]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")

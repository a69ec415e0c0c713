"""Commands that hold others, as `zoetrope` and `zoetrope keys` do."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class Group(TyperGroup):
    """Prints its help where no command is named, unless it does something alone; `help COMMAND` is `COMMAND --help`.

    The help lists the commands by section, their `rich_help_panel`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing and not self.invoke_without_command:
            print(ctx.get_help())
            ctx.exit()
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, Any]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if not command.hidden:
                panel = command.rich_help_panel
                sections.setdefault(panel if isinstance(panel, str) else "Commands", []).append((name, command))
        longest = max((len(name) for commands in sections.values() for name, _ in commands), default=0)
        for title, commands in sections.items():
            with formatter.section(title):
                limit = formatter.width - 6 - longest
                rows = [(name.ljust(longest), command.get_short_help_str(limit)) for name, command in commands]
                formatter.write_dl(rows)

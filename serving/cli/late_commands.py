"""Commands that are loaded when they are asked for: those of other packages, and those of a group that has many."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.main import get_command

from zoetrope.serving.cli.groups import HELP_NAMES, Group
from zoetrope.serving.cli.options import with_options

DISTRIBUTION = "zoetrope"
ENTRY_POINTS = "zoetrope.commands"


class LateCommands(MutableMapping[str, Any]):
    """The commands of a group: those that it was made with, and after them others, each loaded at its first use."""

    def __init__(self, made: Mapping[str, Any], places: Callable[[], Mapping[str, str]], section: str) -> None:
        """
        Args:
            places: returns where each command is, as `load_command` takes it.
            section: of the help, for those that name none.
        """
        self._made, self._places, self._section = dict(made), places, section

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            command = load_command(name, self._places()[name])
            if not isinstance(command.rich_help_panel, str):
                command.rich_help_panel = self._section
            self._made[name] = command
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._made, *self._places()]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]


class LateGroup(Group):
    """A group with commands that are loaded late; a subclass says where they are."""

    section = "Commands"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = LateCommands(self.commands, self.places, self.section)

    def places(self) -> Mapping[str, str]:
        """Return where the late commands are: their names and ``MODULE:ATTRIBUTE`` each."""
        raise NotImplementedError


class RootGroup(LateGroup):
    """The group of `zoetrope` itself: other packages add commands by entry points in the group `ENTRY_POINTS`."""

    section = "Service"

    def places(self) -> Mapping[str, str]:
        try:
            found = metadata.distribution(DISTRIBUTION).entry_points
        except metadata.PackageNotFoundError:  # a tree that was never installed
            return {}
        return {point.name: point.value for point in found if point.group == ENTRY_POINTS}


def load_command(name: str, place: str) -> Any:
    """Import a command.

    Args:
        place: ``MODULE:ATTRIBUTE``: a `typer.Typer`, a function as `with_options` takes it, or one like
            ``main(arguments)``, which reads the rest of the command line by itself, --help included.
    """
    module, _, attribute = place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    settings: dict[str, Any] = dict(HELP_NAMES)
    if not isinstance(found, typer.Typer):
        if list(inspect.signature(found).parameters) == ["arguments"]:
            settings = {"help_option_names": [], "ignore_unknown_options": True}
            found = _reading_itself(found, module)
        app = typer.Typer(add_completion=False, context_settings=settings, rich_markup_mode=None)
        app.command(name)(with_options(found))
        found = app
    command = get_command(found)
    command.name = name
    return command


def _reading_itself(main: Callable[[Sequence[str]], int], module: str) -> Callable[..., int]:
    def run(
        rest: Annotated[
            Sequence[str],
            typer.Argument(metavar="[OPTIONS]", help="As --help lists them.", show_default=False),
        ] = (),
    ) -> int:
        try:
            return main(list(rest))
        except SystemExit as ended:  # as argparse ends after --help, and after what it refuses
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)

    run.__doc__ = (main.__doc__ or inspect.getdoc(importlib.import_module(module)) or "").split("\n")[0]
    return run

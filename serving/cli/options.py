"""Options: those that several commands share, and how a command takes a data class of them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer


def option(metavar: str, help: str, default: str = "", *names: str, **more: Any) -> Any:
    """Describe an option.

    Args:
        default: what takes the place of an absent value, where it is not the default of the parameter.
        names: such as --panel, where it is not the name of the parameter.
    """
    return typer.Option(*names, metavar=metavar, help=help, show_default=default or True, **more)


ModelOption = Annotated[
    str | None, option("MODEL", "Preset, model card, checkpoint folder, weight file or repository.", "nano")
]
FamilyOption = Annotated[
    str | None,
    option(
        "NAME",
        "Preset that the folder at --model holds, where its files do not say.",
        "detected",
        envvar="ZOETROPE_FAMILY",
    ),
]
QuantizeOption = Annotated[
    str | None,
    option(
        "FORM",
        "Form of the weights: fp8 (8 bits, half of the size) or none (as they are).",
        "ZOETROPE_QUANTIZE, or none",
    ),
]
ModelArgument = Annotated[str | None, typer.Argument(metavar="MODEL", help="Same as --model.", show_default=False)]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Job, as `zoetrope jobs` lists it.")]
LimitOption = Annotated[int, option("N", "Show at most this many, newest first.", min=1)]
SeedOption = Annotated[
    int | None, option("N", "Random seed; the same seed gives the same clip, -1 draws one.", "random")
]
LabelOption = Annotated[Sequence[str], option("KEY=VALUE", "Label to find the job by; repeatable.", "none")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress; warnings and errors stay.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, with everything that is known.")]


@dataclass(frozen=True)
class ListingOptions:
    """How a listing is printed."""

    json: JsonOption = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the names alone, one a line.")] = False


def one_model(argument: str | None, given: str | None) -> str | None:
    """Return the model that the command line names, as its argument or as --model.

    Raises:
        CliError: it names two.
    """
    from zoetrope.serving.cli.errors import bad_input

    if argument is not None and given is not None and argument != given:
        raise bad_input("model", f"is named twice: {argument!r} and --model {given!r}")
    return given if argument is None else argument


def labels_of(given: Sequence[str]) -> dict[str, str]:
    """Parse labels, ``KEY=VALUE`` each.

    Raises:
        CliError: one is malformed.
    """
    from zoetrope.serving.cli.errors import bad_input

    labels = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise bad_input("label", f"{text!r} is not KEY=VALUE")
        labels[key] = value
    return labels


def add_commands(app: typer.Typer, section: str, *commands: Callable[..., Any], **settings: Any) -> None:
    """Register commands under the names of their functions, in a section of the help; see `with_options`."""
    for command in commands:
        app.command(rich_help_panel=section, **settings)(with_options(command))


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Replace each parameter of a command that is a data class by options, one for each of its fields.

    They follow the command's own options. A field may be such a data class again. An option that can be repeated has
    the type ``Annotated[Sequence[...], typer.Option(...)]``.
    """
    signature = inspect.signature(command, eval_str=True).parameters.values()
    groups = {p.name: p.annotation for p in signature if dataclasses.is_dataclass(p.annotation)}
    own = [_parameter(p.name, p.annotation, p.default) for p in signature if p.name not in groups]
    parameters = [*own, *(option for kind in groups.values() for option in _expanded(kind))]

    def run(**values: Any) -> Any:
        given = {name: () if value is None and name in repeated else value for name, value in values.items()}
        return command(**{name: _build(kind, given) for name, kind in groups.items()}, **given)

    repeated = {p.name for p in parameters if p.default == ()}
    shown = [p.replace(default=None) if p.name in repeated else p for p in parameters]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _expanded(kind: Any) -> list[inspect.Parameter]:
    """Return the options of a data class."""
    hints = get_type_hints(kind, include_extras=True)
    found: list[inspect.Parameter] = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        nested = dataclasses.is_dataclass(hint)
        found += _expanded(hint) if nested else [_parameter(field.name, hint, field.default)]
    return found


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind, *info = get_args(annotation) or [annotation]
    if get_origin(kind) is Sequence:  # typer knows lists alone
        annotation = Annotated[(list[get_args(kind)[0]] | None, *info)]  # type: ignore
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _build(kind: Any, values: dict[str, Any]) -> Any:
    """Make a data class of the values of its options, which are taken out of ``values``."""
    hints = get_type_hints(kind)
    fields = {
        name: _build(hint, values) if dataclasses.is_dataclass(hint) else values.pop(name)
        for name, hint in ((field.name, hints[field.name]) for field in dataclasses.fields(kind))
    }
    return kind(**fields)

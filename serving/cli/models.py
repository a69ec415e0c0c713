"""`zoetrope models`: the models of a service, or the presets and what a clip costs on each; and model cards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import BUNDLED, all_presets
from zoetrope.model.families.family import Preset
from zoetrope.model.inspection.files import TOML_SUFFIX, ModelError
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.quantize import Quantize
from zoetrope.model.request.sizes import RATIOS, size_of
from zoetrope.model.request.tasks import MAX_DURATION_SECONDS, ModelCard
from zoetrope.serving.cli.connection import OptionalConnection, connect
from zoetrope.serving.cli.console import stderr, stdout
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.cli.groups import Group
from zoetrope.serving.cli.load_options import ModelLoadOptions
from zoetrope.serving.cli.options import ListingOptions, QuantizeOption, QuietOption, option, with_options

if TYPE_CHECKING:
    from zoetrope.serving.cli.listing import Listing

GIB = 2**30
app = typer.Typer(cls=Group, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@with_options
def models(
    context: typer.Context,
    connection: OptionalConnection,
    output: ListingOptions,
    presets: Annotated[bool, typer.Option("--presets", help="List all presets and what a clip costs on each.")] = False,
    size: Annotated[str | None, option("SIZE", "Size of that clip: 480p, 720p, 1080p or WIDTHxHEIGHT.", "720p")] = None,
    ratio: Annotated[str | None, option("RATIO", "Aspect ratio of that clip.", RATIOS[0])] = None,
    duration: Annotated[float | None, option("SECONDS", "Length of that clip.", "5")] = None,
    ranks: Annotated[int | None, option("N", "GPUs of the engine that makes it.", "1", min=1)] = None,
    quantize: QuantizeOption = None,
) -> None:
    """List the models of a service, or the presets and cards here."""
    if context.invoked_subcommand is not None:
        return
    from zoetrope.serving.cli.listing import show
    from zoetrope.serving.cli.tables import models_listing

    if presets:
        clip = (size or "720p", ratio or RATIOS[0], 5.0 if duration is None else duration, ranks or 1)
        listing, note = presets_listing(*clip, ModelLoadOptions(quantize=quantize).resolved().quantize)
        show(listing, output)
        if not (output.json or output.quiet):
            stdout().print(note)
        return
    only = {"size": size, "ratio": ratio, "duration": duration, "ranks": ranks, "quantize": quantize}
    for field, value in only.items():
        if value is not None:
            raise bad_input(field, "can only be given together with --presets")
    service = connection.resolved()
    if service is None:
        show(models_listing([*(find_model(name) for name in BUNDLED), *_cards()]), output)
    else:
        with connect(service) as client:
            show(models_listing(client.models()), output)


@app.command()
@with_options
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the card, which is the model's.")],
    model: Annotated[str, option("MODEL", "Checkpoint folder, weight file, repository or preset.")],
    load: ModelLoadOptions,
    data_dir: Annotated[Path | None, option("DIR", "Data folder of the service.", "~/.local/share/zoetrope")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a card of that name.")] = False,
) -> None:
    """Write a model card, by whose name the model can be served.

    The card is a TOML file in ZOETROPE_MODELS_DIR, or in the folder models of the data folder. Its files are checked
    first.
    """
    from zoetrope.model.catalog.card_files import cards_folder, check_card_name, find_card_file, write_card_file
    from zoetrope.model.catalog.presets import open_model
    from zoetrope.model.families import PRESETS

    check_card_name(name)
    path = cards_folder(data_dir) / f"{name}{TOML_SUFFIX}"
    if path.exists() and not force:
        raise bad_input("name", f"{path} exists, replace it with --force")
    if model in PRESETS:
        raise bad_input("model", f"{model!r} must be a folder, a weight file, a repository or a preset with weights")
    if model not in BUNDLED and (other := find_card_file(model) or find_card_file(model, path.parent)):
        raise bad_input("model", f"{model!r} is a card itself, {other}: name what that one names")
    how = LoadOptions(**load.given())
    load.resolved()  # refuses what no option takes
    card = open_model(model, how)
    for warning in card.warnings:
        stderr().print(f"warning: {warning}", markup=False)
    write_card_file(path, model, how, replace=force)
    print(path)


@app.command()
@with_options
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Preset, model card, checkpoint folder or file.")],
    load: ModelLoadOptions,
    out: Annotated[Path, option("FILE", "Where to write it; ends with .card.json.")],
) -> None:
    """Write all that a gateway needs of a model into one file.

    A gateway that is started with --model FILE needs none of the model's files. They are hashed first, once.
    """
    from zoetrope.model.catalog.exported_cards import EXPORTED_SUFFIX, exported_text
    from zoetrope.model.catalog.presets import open_model
    from zoetrope.serving.config.hashing import hash_at_start

    if not out.name.endswith(EXPORTED_SUFFIX):
        raise bad_input("out", f"{out} must end with {EXPORTED_SUFFIX}")
    card = open_model(model, load.resolved())
    for warning in card.warnings:
        stderr().print(f"warning: {warning}", markup=False)
    hash_at_start(card)
    text = exported_text(card)
    try:
        out.write_text(text)
    except OSError as error:
        raise bad_input("out", f"{out} cannot be written: {error.strerror}") from None
    print(out)


@app.command()
@with_options
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the card.")],
    data_dir: Annotated[Path | None, option("DIR", "Data folder of the service.", "~/.local/share/zoetrope")] = None,
) -> None:
    """Remove a model card; the files that it names stay."""
    from zoetrope.model.catalog.card_files import cards_folder, check_card_name

    check_card_name(name)
    path = cards_folder(data_dir) / f"{name}{TOML_SUFFIX}"
    try:
        path.unlink()
    except FileNotFoundError:
        raise bad_input("name", f"there is no card {path}") from None
    except OSError as error:
        raise bad_input("name", f"{path} cannot be removed: {error.strerror}") from None


@app.command()
@with_options
def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the model, with its SHA256SUMS.")],
    quiet: QuietOption = False,
) -> None:
    """Check a model's files against the SHA256SUMS beside them.

    What it finds out is kept, so that a service that starts later on this machine hashes nothing again.
    """
    from rich.progress import DownloadColumn

    from zoetrope.model.inspection import sums
    from zoetrope.serving.cli.progress import count_bar

    with count_bar(stderr(), "checking", DownloadColumn(), quiet=quiet) as bar:
        task = bar.add_task("checking", total=None)
        count = sums.verify(folder, lambda done, total: bar.update(task, completed=done, total=total))
    if not quiet:
        print(f"{folder}: all {count} files are as {sums.SUMS} says")


def register(parent: typer.Typer, section: str) -> None:
    parent.add_typer(app, name="models", rich_help_panel=section)


def _cards() -> Iterator[ModelCard]:
    """Yield the cards that have names; those that cannot be used become warnings."""
    from zoetrope.model.catalog.card_files import card_files

    for path in card_files():
        try:
            yield find_model(str(path))
        except ModelError as error:
            stderr().print(f"warning: {path.stem}: {error}", markup=False)


def presets_listing(
    size: str, ratio: str, duration: float, ranks: int, quantize: Quantize = "none"
) -> tuple[Listing, str]:
    """Return every preset with what a clip costs on it, and a line that explains the columns.

    Raises:
        CliError: no clip can have that size, ratio or duration.
    """
    from zoetrope.serving.cli.listing import Listing

    width, height = clip_size(size, ratio)
    check_duration(duration)
    items = [_costs(preset, width, height, duration, ranks, quantize) for preset in all_presets().values()]
    listing = Listing(
        ("preset", "parameters", "active", "autoencoder", "frames", "tokens", "PFLOP", "weights", "activations"),
        rows=[_row(item) for item in items],
        items=items,
        names=list(all_presets()),
        wraps=("weights",),
        optional=("autoencoder", "frames"),
    )
    note = (
        f"{width}x{height}, {duration:g} s at each preset's frame rate, {ranks} GPU{'s' if ranks > 1 else ''}. "
        f"PFLOP of a step with all guidance branches. Weights in {_form(quantize)}, exact; activations in GiB a rank, "
        "estimated from shapes."
    )
    return listing, note


def _form(quantize: Quantize) -> str:
    return "bfloat16" if quantize == "none" else f"bfloat16, those of the middle blocks in {quantize}"


def _costs(preset: Preset, width: int, height: int, duration: float, ranks: int, quantize: Quantize) -> dict[str, Any]:
    """Return what is known of a clip on a preset, or ``problem``, why there can be none."""
    from zoetrope.model.network.costs import clip_cost, count_parameters

    count = count_parameters(preset.config)
    fields = {
        "name": preset.name,
        "transformers": preset.transformers,
        "parameters": count.total,
        "active_parameters": count.active,
        "autoencoder": preset.vae.name,
        "quantize": quantize,
    }
    try:
        cost = clip_cost(preset, width, height, duration, ranks, quantize)
    except ValueError as error:
        return {**fields, "problem": str(error)}
    return {
        **fields,
        "frames": cost.frames,
        "tokens": cost.tokens,
        "step_flops": cost.step_flops,
        "weight_bytes": cost.memory.weights,
        "activation_bytes": cost.memory.activations,
    }


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    times = f"{item['transformers']} x " if item["transformers"] > 1 else ""
    parameters = (times + _count(item["parameters"]), _count(item["active_parameters"]))
    head = (item["name"], *parameters, item["autoencoder"])
    if "problem" in item:
        return (*head, "", "", "", escape(item["problem"]), "")
    return (
        *head,
        str(item["frames"]),
        f"{item['tokens']:,}",
        _petaflops(item["step_flops"]),
        f"{item['weight_bytes'] / GIB:.1f} GiB",
        f"{item['activation_bytes'] / GIB:.1f} GiB",
    )


def _petaflops(flops: float) -> str:
    return f"{flops / 1e15:.3g}" if flops >= 1e12 else f"{flops / 1e15:.0e}"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e8 else f"{parameters / 1e6:.2f} M"


def clip_size(size: str, ratio: str) -> tuple[int, int]:
    """Parse ``--size`` and ``--ratio`` into a width and height in pixels.

    Raises:
        CliError: no clip can have them.
    """
    if ratio not in RATIOS:
        raise bad_input("ratio", f"{ratio!r} is not one of {', '.join(RATIOS)}")
    try:
        return size_of(size, ratio)
    except ValueError as error:
        raise bad_input("size", str(error)) from None


def check_duration(duration: float) -> None:
    """Check ``--duration``, in seconds. Raises CliError if no clip can have it."""
    if not 0 < duration <= MAX_DURATION_SECONDS:
        raise bad_input("duration", f"{duration} must be above 0 and at most {MAX_DURATION_SECONDS:g}")

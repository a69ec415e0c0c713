"""Listings in terminals of all widths: what is shown, and that no word is broken."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.serving.cli.listing import COMMANDS, Listing, plain, print_json
from zoetrope.serving.cli.tables import models_listing
from zoetrope.serving.client import ClientError, ModelInfo

LISTING = Listing(
    ("name", "state", "prompt", "owner", "note"),
    rows=[
        ("first-of-them", "[green]succeeded[/]", "a red circle that moves right", "alice", ""),
        ("second", "queued", "a blue square", "bob", "waits for an engine that serves its model"),
    ],
    items=(),
    names=(),
    cut="prompt",
    optional=("owner",),
    below="note",
)
WORDS = {"first-of-them", "succeeded", "second", "queued", "waits", "for", "an", "engine", "that", "serves", "model"}

HOSTILE = "a\x1b]0;title\x07\x1b[31mred\x9b2J\u202egnp.exe"


def drawn(listing: Listing, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(listing)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_table_where_there_is_room() -> None:
    header, first, second = drawn(LISTING, 120)
    assert header.split() == ["name", "state", "prompt", "owner", "note"]
    assert first.split()[:2] == ["first-of-them", "succeeded"]
    assert second.endswith("waits for an engine that serves its model")


def test_notes_below_their_rows_then_fewer_columns() -> None:
    header, first, second, note = drawn(LISTING, 70)
    assert header.split() == ["name", "state", "prompt", "owner"]
    assert first.endswith("alice") and second.endswith("bob")
    assert note == "    waits for an engine that serves its model"
    header, first, *rest = drawn(LISTING, 38)
    assert header.split() == ["name", "state", "prompt"]
    assert first.endswith("…") and " ".join(rest).endswith("(owner: in a wider terminal, or with --json)")


@pytest.mark.parametrize("width", [14, 20, 25, 30, 37, 38, 45, 60, 80, 100, 200])
def test_no_word_is_broken(width: int) -> None:
    lines = drawn(LISTING, width)
    assert max(map(len, lines)) <= width
    words = set(" ".join(lines).split())
    assert words >= WORDS if width >= 20 else {"second", "first-of-them"} <= words


def test_other_names_of_a_model() -> None:
    fields = dict.fromkeys((field.name for field in dataclasses.fields(ModelInfo)), 1)
    texts = dict.fromkeys(("default_size", "default_negative_prompt", "flow_shift_note", "quantize", "profile"), "")
    lists = dict.fromkeys(("tasks", "native_sizes", "formats", "adapters", "fused_adapters"), ())
    names = ("acme/video-1", "sora-2")
    model = ModelInfo(**{**fields, **texts, **lists, "name": "nano", "aliases": names})  # type: ignore[arg-type]
    assert "other names" in drawn(models_listing([model]), 300)[0]
    assert drawn(models_listing([model]), 300)[1].endswith("acme/video-1, sora-2")
    assert "other names" not in drawn(models_listing([dataclasses.replace(model, aliases=())]), 300)[0]


def test_the_profile_of_a_distill() -> None:
    header, row = drawn(models_listing([find_model("nano-4step")]), 300)
    assert header.split()[-1] == "profile" and row.split()[-1] == "nano-4"
    assert "profile" not in drawn(models_listing([find_model("nano")]), 300)[0]


def test_the_form_of_weights_that_are_quantised() -> None:
    card = find_model("nano")
    assert "weights" not in drawn(models_listing([card]), 300)[0]
    header, row = drawn(models_listing([find_model("nano", LoadOptions(quantize="fp8"))]), 300)
    assert header.split()[-1] == "weights" and row.split()[-1] == "fp8"


def test_rows_as_records_where_no_table_fits() -> None:
    lines = drawn(LISTING, 30)
    assert lines[0] == "first-of-them"
    assert lines[1].split() == ["state", "succeeded"]
    assert "note" not in " ".join(lines[: lines.index("second")]), "an empty cell has no line"


@pytest.mark.parametrize("width", [30, 200])
def test_no_cell_gives_orders_to_the_terminal(width: int) -> None:
    listing = Listing(("name", "file"), rows=[("first", HOSTILE)], items=(), names=())
    text = "\n".join(drawn(listing, width))
    assert "red" in text and not COMMANDS.search(text)


def test_no_json_gives_orders_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"file": HOSTILE})
    text = capsys.readouterr().out
    assert json.loads(text) == {"file": HOSTILE} and not COMMANDS.search(text)


@pytest.mark.parametrize("width", [20, 200])
def test_no_rows(width: int) -> None:
    empty = Listing(LISTING.columns, rows=(), items=(), names=())
    assert drawn(empty, width)[:1] == (["name  state  prompt  owner  note"] if width == 200 else [])


def test_plain_data() -> None:
    assert plain({"create_time": 1.5, "seconds": 1.5, "ids": ("a",), "error": ClientError("INTERNAL", "x")}) == {
        "create_time": "1970-01-01T00:00:01.500Z",
        "seconds": 1.5,
        "ids": ["a"],
        "error": "x",
    }

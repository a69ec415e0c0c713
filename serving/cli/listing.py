"""Listings: a table that fits the terminal for people, JSON or bare names for programs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zoetrope.serving.cli.console import stdout
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.cli.options import ListingOptions

GAP = 2  # spaces between columns
INDENT = 4  # spaces before what goes below a row
CUT_LEAST = 8  # characters that are left of a text that may be cut
# Characters that terminals obey rather than show: files and clients may be named with any.
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TIMES = ("time", "_at", "deadline")  # ends of the names of times, in seconds since the epoch


@dataclass(frozen=True)
class Listing:
    """Rows with what they stand for. Where there is little room, no word of a table is broken.

    Args:
        rows: cells, in rich's markup.
        items: the same for programs; see `plain`.
        names: what commands call them.
        wraps: columns whose cells may go over several lines.
        cut: the column whose cells end in an ellipsis where room is short.
        optional: columns that are left out where room is short, in this order.
        below: the column that goes to lines of its own, below its row, where room is short.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    items: Sequence[Any]
    names: Sequence[str]
    wraps: Sequence[str] = ()
    cut: str = ""
    optional: Sequence[str] = ()
    below: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = [[Text.from_markup(COMMANDS.sub("\ufffd", cell)) for cell in row] for row in self.rows]
        columns = [self._column(title, [row[i] for row in cells]) for i, title in enumerate(self.columns)]
        room = options.max_width
        if _together(column.full for column in columns) <= room:
            yield _table(columns, [column.full for column in columns], range(len(cells)))
            return
        below = next((column for column in columns if column.title == self.below), None)
        shown = [column for column in columns if column is not below]
        for title in ("", *self.optional):
            shown = [column for column in shown if column.title != title]
            if _together(column.least for column in shown) <= room:
                yield from _lines(shown, below, room)
                if left_out := [c.title for c in columns if c not in shown and c is not below]:
                    yield Text(f"({', '.join(left_out)}: in a wider terminal, or with --json)", style="dim")
                return
        yield from _records(columns)

    def _column(self, title: str, cells: Sequence[Text]) -> _Column:
        parts = [Text(word) for cell in cells for word in cell.plain.split()] if title in self.wraps else cells
        least = max((Text(word).cell_len for word in title.split()), default=0)
        if title == self.cut:
            return _Column(title, cells, max(least, CUT_LEAST), _longest(cells, least), cut=True)
        return _Column(title, cells, _longest(parts, least), _longest(cells, Text(title).cell_len))


@dataclass(frozen=True)
class _Column:
    """A column with the width that it needs at least, and that at which no cell wraps."""

    title: str
    cells: Sequence[Text]
    least: int
    full: int
    cut: bool = False


def _longest(texts: Iterable[Text], least: int) -> int:
    return max([least, *(text.cell_len for text in texts)])


def _together(widths: Iterable[int]) -> int:
    """Return the width of columns with the gaps between them."""
    found = list(widths)
    return sum(found) + GAP * (len(found) - 1)


def _spread(columns: Sequence[_Column], room: int) -> list[int]:
    """Return the widths of the columns, whose cells share what their least widths leave of the room."""
    widths = [column.least for column in columns]
    wanted = [_longest(column.cells, 0) for column in columns]
    for _ in range(room - _together(widths)):
        needs = [cells / width for cells, width in zip(wanted, widths, strict=True)]
        neediest = max(range(len(columns)), key=needs.__getitem__)
        if needs[neediest] <= 1:
            break
        widths[neediest] += 1
    return widths


def _table(columns: Sequence[_Column], widths: Sequence[int], rows: Iterable[int], *, header: bool = True) -> Table:
    """Make a table without lines, of some of the rows."""
    table = Table(box=None, pad_edge=False, show_header=header, header_style="bold", padding=(0, GAP, 0, 0))
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column.title, width=width, overflow="ellipsis" if column.cut else "fold", no_wrap=column.cut)
    for number in rows:
        table.add_row(*(column.cells[number] for column in columns))
    return table


def _lines(columns: Sequence[_Column], below: _Column | None, room: int) -> RenderResult:
    """Yield the table, with the lines below its rows if there are any."""
    widths = _spread(columns, room)
    if below is None:
        yield _table(columns, widths, range(len(columns[0].cells)))
        return
    yield _table(columns, widths, ())
    for number, text in enumerate(below.cells):
        yield _table(columns, widths, [number], header=False)
        if text.plain:
            yield Padding(text, (0, 0, 0, INDENT))


def _records(columns: Sequence[_Column]) -> RenderResult:
    """Yield each row as lines, one or more for every cell."""
    head, *rest = columns
    width = max(Text(column.title).cell_len for column in rest)
    for number, name in enumerate(head.cells):
        yield Text(name.plain, style="bold")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, GAP, 0, 0))
        table.add_column(width=width + GAP, no_wrap=True)
        table.add_column(overflow="fold")
        for column in rest:
            if column.cells[number].plain:
                table.add_row(f"  {column.title}", column.cells[number])
        yield table


def show(listing: Listing, options: ListingOptions, width: int | None = None) -> None:
    """Print a listing, in lines of at most ``width`` characters.

    Raises:
        CliError: the options contradict each other.
    """
    if options.json and options.quiet:
        raise bad_input("quiet", "cannot be used together with --json")
    if options.json:
        print_json(listing.items)
    elif options.quiet:
        print("".join(f"{name}\n" for name in listing.names), end="")
    else:
        stdout(width).print(listing)


def print_json(value: Any) -> None:
    """Print what `plain` makes of a value."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False)
    print(COMMANDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def plain(value: Any, name: str = "") -> Any:
    """Return data for JSON: data classes as objects, times in ISO 8601.

    Args:
        name: of the field that has the value, which tells times from other numbers.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name), field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, Mapping):
        return {str(key): plain(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and name.endswith(TIMES):
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path | Exception) else value

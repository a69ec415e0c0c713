"""Prints docs/sizes.md: what every model makes of every named size.

python -m tests.serving.api.sizes_table > docs/sizes.md
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.fixtures.family_checkpoints import MODELS, card_in
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.sizes import RATIOS, SIZES, Size
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard, parse_request

SHOWN = {
    "text_to_video": {"prompt": "p"},
    "image_to_video": {"image": "a"},
    "first_last_frame": {"first_frame": "a", "last_frame": "b"},
}
HEAD = """# Sizes

A file has exactly the size that was asked for. Where a model cannot denoise at that size, it denoises at the size in
the table and the decoder scales and crops, never stretches; the job says so. A test compares the table with gRPC, the
three HTTP APIs, the command line and `zoetrope plan`. Any `WIDTHxHEIGHT` with even sides of 24 to 1920 pixels is served
by the same rule. Without a size a model makes its default one, in the ratio of the picture or clip that it is given;
nano, which has sizes of its own, in the nearest of 16:9, 9:16, 1:1, 4:3 and 3:4. Clips are edited at 720p
at most, and scaled to larger files. This page is the output of `python -m tests.serving.api.sizes_table`.

"""


def kind_of(card: ModelCard) -> str:
    """A task that the model serves and that takes a size and a ratio."""
    return next(kind for kind in SHOWN if kind in card.tasks)


def spec_of(card: ModelCard, size: str, ratio: str) -> VideoSpec:
    task = {"kind": kind_of(card), **SHOWN[kind_of(card)]}
    return resolve(parse_request({"task": task, "size": size, "ratio": ratio, "frames": 5}), card, 7)


def named_sizes() -> list[tuple[str, str]]:
    return [(size, ratio) for size in SIZES for ratio in RATIOS]


def table(cards: Mapping[str, ModelCard]) -> Iterable[str]:
    """Lines of Markdown; models that do the same share a column."""
    columns: dict[tuple[Size, ...], list[str]] = {}
    for name, card in cards.items():
        specs = [spec_of(card, size, ratio) for size, ratio in named_sizes()]
        columns.setdefault(tuple((s.native_width, s.native_height) for s in specs), []).append(name)
    yield "| size | ratio | file | " + " | ".join("<br>".join(names) for names in columns.values()) + " |"
    yield "| --- | --- | --- | " + " | ".join("---" for _ in columns) + " |"
    for i, (size, ratio) in enumerate(named_sizes()):
        width, height = SIZES[size][ratio]
        cells = ["same" if made[i] == (width, height) else f"{made[i][0]}x{made[i][1]}" for made in columns]
        yield f"| {size} | {ratio} | {width}x{height} | " + " | ".join(cells) + " |"
    yield ""
    yield "| model | default size |"
    yield "| --- | --- |"
    for name, card in cards.items():
        yield f"| {name} | {card.default_size} |"


def document(directory: Path) -> str:
    """The whole page; checkpoints are written below ``directory``."""
    return HEAD + "\n".join(table({name: card_in(directory, name) for name in MODELS})) + "\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(document(Path(folder)), end="")

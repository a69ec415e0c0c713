"""The checkpoint that is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import BUNDLED, PRESETS
from zoetrope.model.request.tasks import ModelCard

DENSE = "wan2.1-t2v-1.3b"  # the folder's name decides what it is taken for


@dataclass(frozen=True)
class MeasuredModel:
    """A model and its files.

    Attributes:
        name: for readers. stand_ins: text encoder and autoencoder are small ones, not the model's own. dense: it is the
            small one with random weights.
    """

    name: str
    card: ModelCard
    stand_ins: bool = False
    dense: bool = False


@contextmanager
def checkpoint(model: str) -> Iterator[MeasuredModel]:
    """Find a model, or write one with random weights to a folder that is gone afterwards.

    Args:
        model: a preset or a folder; empty: a small dense one.

    Raises:
        BenchmarkError: it makes no clips of text alone.
        ModelError: there is no such model, or its files are wrong.
    """
    with TemporaryDirectory(prefix="model-steps-") as scratch:
        found = _found(model, Path(scratch))
        if "text_to_video" not in found.card.tasks:
            raise BenchmarkError(f"--model {found.name}: it must make clips of text alone (text_to_video)")
        yield found


def _found(model: str, scratch: Path) -> MeasuredModel:
    if not model:
        from zoetrope.benchmarks.packed_throughput.dense import write_dense

        folder = scratch / DENSE
        write_dense(folder)
        return MeasuredModel("dense, nano's width and depth, random weights", find_model(str(folder)), dense=True)
    if model in BUNDLED or model not in PRESETS:
        name = model if model in BUNDLED else Path(model).name
        return MeasuredModel(name, find_model(model))
    from zoetrope.benchmarks.random_checkpoint import write_random_checkpoint

    folder = scratch / model
    write_random_checkpoint(PRESETS[model], folder)
    return MeasuredModel(f"{model}, random weights", find_model(str(folder)), stand_ins=True)

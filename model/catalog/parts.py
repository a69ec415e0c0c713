"""Say where the components of a model are: in one folder, or in files that are named one by one. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoetrope.model.catalog.hub import REPOSITORY, cached_repository, snapshot_of, why_not_cached
from zoetrope.model.catalog.single_files import is_split, is_weight_file, side_of
from zoetrope.model.inspection.files import ModelError, typed_path, why_missing
from zoetrope.model.request.load_options import LoadOptions

if TYPE_CHECKING:  # pydantic, which a bare machine lacks
    from zoetrope.model.request.tasks import ModelCard


@dataclass(frozen=True)
class Parts:
    """A model of several places: ``base`` is its transformer's file, or the folder that has what ``load`` does not
    name."""

    base: Path
    load: LoadOptions

    @property
    def is_file(self) -> bool:
        """Whether the transformer is a file, so that nothing else comes with it."""
        return not self.base.is_dir() or is_split(self.base)

    def place(self, option: str) -> Path | None:
        """Return the place that an option such as ``vae`` names: a path, or a repository in the hub's cache; None if it
        names none.

        Raises:
            ModelError: nothing is there, or the cache holds no one commit of the repository.
        """
        text, name = getattr(self.load, option), option.replace("_", "-")
        if not text:
            return None
        path = typed_path(text, name)
        if path.exists():
            return path
        if (cached := cached_repository(text)) is not None:
            return snapshot_of(cached)
        if REPOSITORY.fullmatch(text) and not is_weight_file(path) and not path.parent.is_dir():
            raise ModelError(f"{name}: {why_not_cached(text)}")
        raise ModelError(f"{name}: {path}: {why_missing(path)}")

    def transformers(self) -> list[Path]:
        """Return the files of the transformer, or of the two noise experts, the one for high noise first.

        Raises:
            ModelError: a file's name says that it is the other expert, or one of two while only one is given.
        """
        low = self.place("model_low")
        said = side_of(self.base)
        if low is None:
            if said:
                other = "the other one as --model-low" if said == "high" else "it as --model-low, the other as --model"
                raise ModelError(f"model: {self.base} is the {said}-noise expert of two, by its name: give {other}")
            return [self.base]
        if low.exists() and self.base.exists() and low.samefile(self.base):
            raise ModelError(f"model-low: {low} is the same file as model")
        if said == "low" or side_of(low) == "high":
            raise ModelError(
                f"model-low: {low} and model: {self.base} are exchanged, by their names: --model is the expert for "
                "high noise, --model-low that for low noise"
            )
        return [self.base, low]


Source = Path | Parts


def source_of(card: ModelCard) -> Source:
    """Return where a model's components are."""
    return source(Path(card.directory), card.load)


def source(base: Path, load: LoadOptions) -> Source:
    """Return where the components of the model at ``base`` are."""
    parts = Parts(base, load)
    return parts if load.parts or parts.is_file else base

"""Make the stored form of an adapter from its files, for a model: everything that can be wrong is found here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoetrope.model.adapters.files.card import side_in_name
from zoetrope.model.adapters.files.plan import plan_adapter
from zoetrope.model.adapters.files.targets import Targets
from zoetrope.model.adapters.parse import read_patches
from zoetrope.model.adapters.patches import Patch
from zoetrope.model.adapters.registered import check_registrable, write_registered
from zoetrope.model.catalog.checkpoint_layout import read_transformers
from zoetrope.model.catalog.model_card import transformer_config
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.inspection.files import ModelError, typed_path
from zoetrope.model.network.protocol import Network, meta_network
from zoetrope.model.network.transformer import WanTransformer
from zoetrope.model.request.loras import MAX_ADAPTER_BYTES
from zoetrope.model.request.tasks import ModelCard

HASHED_BYTES = 1 << 20
FILE = re.compile(r"(?P<path>.+?)(?:@(?P<side>high|low|both))?", re.DOTALL)
# Names of adapters that make few steps do: with the usual schedule they give nothing of use.
DISTILLS = re.compile(
    r"lightning|lightx2v|causvid|distill|\bdmd|fastwan|\brcm|(?<![0-9])[1-8][ _-]?steps?\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Registered:
    """The stored form of an adapter: its file, and the columns of a slot that it needs. ``notes`` say what of the files
    given is not applied."""

    path: Path
    rank: int
    sha256: str
    size_bytes: int
    notes: tuple[str, ...] = ()


def register(card: ModelCard, files: Sequence[str], folder: Path) -> Registered:
    """Parse and check an adapter's files, and write its stored form into a folder.

    Args:
        files: ``FILE`` or ``FILE@SIDE``: a model with two noise experts needs to know which one a file is for, high,
            low or both, if neither the file nor its name says so.

    Raises:
        ModelError: names the file, what is wrong with it, and the limit.
    """
    networks = _networks(card)
    patches: list[tuple[str, Patch]] = []
    notes: list[str] = []
    for text in files:
        patches += _read(text, networks, notes)
    shown = ", ".join(files)
    rank = check_registrable(patches, networks, shown)
    path = folder / "adapter.safetensors"
    write_registered(path, patches)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(HASHED_BYTES):
            digest.update(piece)
    return Registered(path, rank, digest.hexdigest(), path.stat().st_size, tuple(notes))


def _read(text: str, networks: dict[str, Network], notes: list[str]) -> Iterator[tuple[str, Patch]]:
    """Yield a file's changes, and add what is not applied to ``notes``."""
    match = FILE.fullmatch(text)
    path = typed_path(text if match is None else match["path"], "file")
    given = None if match is None else match["side"]
    if given is not None and "any" in networks:
        raise ModelError(f"{text}: @{given} is for models with two noise experts, which this one has not")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    if size > MAX_ADAPTER_BYTES:
        raise ModelError(f"{path}: has {size} bytes, an adapter for requests at most {MAX_ADAPTER_BYTES}")
    if DISTILLS.search(path.stem):
        raise ModelError(
            f"{path}: by its name it makes a model need few steps, which changes the schedule of all its jobs: load "
            "it with the model (--lora) and its profile (--profile)"
        )
    plan = plan_adapter(path, Targets(next(iter(networks.values())).config))
    notes += [f"{path}: {note}" for note in plan.notes]
    for side, patch in read_patches(plan):
        if side == "any" and "any" not in networks:
            named = given or side_in_name(path)
            if named is None:
                raise ModelError(f"{path}: does not say for which noise expert it is; add @high, @low or @both to it")
            yield ("any" if named == "both" else named), patch
        elif given is not None and side not in ("any", given):
            raise ModelError(f"{text}: {patch.target} is for the {side}-noise expert")
        else:
            yield side, patch


def _networks(card: ModelCard) -> dict[str, Network]:
    """Return the model's networks by side, on the meta device."""
    parts = read_transformers(source_of(card))
    networks = [meta_network(transformer_config(part)) for part in parts]
    for network in networks:
        if not isinstance(network, WanTransformer):
            raise ModelError(f"{card.name}: requests cannot have adapters with this network")
    return {"any": networks[0]} if card.boundary is None else {"high": networks[0], "low": networks[1]}

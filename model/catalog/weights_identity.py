"""Identify the weights that a model computes with, by the contents of all its files. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoetrope.model.catalog.checkpoint_layout import (
    Component,
    read_autoencoder,
    read_image_encoder,
    read_text_encoder,
    read_transformers,
    tokenizer_directory,
)
from zoetrope.model.catalog.model_card import scheduler_config
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.hashes import OnHashed, Stamp, hashes_of, ignore_hashed, read_ahead, stamp_of
from zoetrope.model.request.tasks import ModelCard

CONTENT_DIGITS = 32  # hexadecimal, of a SHA-256
PROFILE_DIGITS = 8
PROCESSOR_FOLDER = "image_processor"  # beside CLIP's in diffusers' layout


@lru_cache(maxsize=64)
def weights_of(card: ModelCard) -> str:
    """Name the weights that compute: the model's name and what is in its files, with the form in which they are loaded
    if it is not their own, the profile that they sample by, and the SHA-256, strength and noise expert of each fused
    adapter.

    Segments begun with one may not go on with another. It is computed once for a card: what has been loaded stays,
    whatever happens to its files. Large files that were never hashed on this machine take seconds: call `hash_weights`
    first, where nobody waits.

    Raises:
        ModelError: a file is missing, or cannot be read.
    """
    form = () if card.quantize == "none" else (card.quantize,)
    profile = () if card.profile is None else (f"{card.profile.name}:{_digest(repr(card.profile))[:PROFILE_DIGITS]}",)
    fused = (f"lora:{one.sha256}:{one.strength!r}@{one.expert}" for one in card.adapters)
    return "+".join((f"{card.name}@{_content(card)}", *form, *profile, *fused))


def hash_weights(card: ModelCard, on_hashed: OnHashed = ignore_hashed) -> str:
    """Hash what has not been hashed yet, and return `weights_of`, with its errors."""
    hashes_of([path for _, path in _files(card)], on_hashed)
    return weights_of(card)


class Hashing:
    """Finds out `weights_of` in a thread, beside what imports and loads; begins at once. What it need not hash of the
    transformers it has read ahead."""

    def __init__(self, card: ModelCard) -> None:
        self._stamps: list[tuple[Path, Stamp]] = []
        pool = ThreadPoolExecutor(1, "hash-weights")
        try:
            files = list(_files(card))
            self._stamps = [(path, stamp_of(path)) for _, path in files]
        except ModelError as error:  # told by `result`: there is somebody who waits for it
            self._future: Future[str] = Future()
            self._future.set_exception(error)
        else:
            pool.submit(read_ahead, [path for role, path in files if role.startswith("transformer ")])
            self._future = pool.submit(weights_of, card)
        pool.shutdown(wait=False)  # who cannot load the files need not wait for their hashes

    def result(self) -> str:
        """Wait for the name. Call it when the files have been loaded.

        Raises:
            ModelError: as `weights_of`, or a file has changed since the beginning, so that what was loaded may be
                something else.
        """
        found = self._future.result()
        for path, stamp in self._stamps:
            if stamp_of(path) != stamp:
                raise ModelError(f"{path}: has changed while it was loaded")
        return found


def weights_here(card: ModelCard) -> str:
    """Return `weights_of`, or "" where the model's files are not: a gateway needs its configuration alone."""
    if card.exported_weights:
        return card.exported_weights
    try:
        return weights_of(card)
    except ModelError:
        return ""


def _content(card: ModelCard) -> str:
    """Digest the files of all components by what they are for, and what configurations say that changes results. Where
    the files are, and what they are called, does not matter."""
    files = list(_files(card))
    hashes = hashes_of([path for _, path in files])
    said: dict[str, Any] = {role: _said(part) for role, part in _components(card)}
    said["scheduler"] = _plain(scheduler_config(card))
    said["model"] = [card.family, card.conditioner, card.boundary]
    said["files"] = sorted((role, digest) for (role, _), digest in zip(files, hashes, strict=True))
    return _digest(json.dumps(said, sort_keys=True, default=str))[:CONTENT_DIGITS]


def _components(card: ModelCard) -> Iterator[tuple[str, Component]]:
    source = source_of(card)
    transformers = read_transformers(source)
    for number, part in enumerate(transformers):
        yield f"transformer {number}", part
    yield "vae", read_autoencoder(source)
    yield "text_encoder", read_text_encoder(source)
    if transformers[0].config.get("image_dim") is not None:
        yield "image_encoder", read_image_encoder(source)


def _files(card: ModelCard) -> Iterator[tuple[str, Path]]:
    """Yield every file that is read when the model is loaded, with what it is for; but no configurations."""
    for role, part in _components(card):
        for number, path in enumerate(part.files):
            yield f"{role} {number}", path
        if role == "image_encoder":
            yield from _inside(part.directory.parent / PROCESSOR_FOLDER, PROCESSOR_FOLDER)
    tokenizer = tokenizer_directory(source_of(card))
    if tokenizer is not None:
        yield from _inside(tokenizer, "tokenizer")


def _inside(folder: Path, role: str) -> Iterator[tuple[str, Path]]:
    if folder.is_dir():
        yield from ((f"{role} {path.name}", path) for path in sorted(folder.iterdir()) if path.is_file())


def _said(part: Component) -> Any:
    """Return what a component's configuration says, or how its weights are drawn."""
    drawn = None if part.random is None else [part.random.seed, part.random.std]
    return [part.original, _plain(part.config), drawn]


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out where a configuration comes from, and the version that wrote it."""
    return {key: value for key, value in config.items() if not key.startswith("_") or key == "_class_name"}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

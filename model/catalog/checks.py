"""Check by headers alone that a checkpoint's files match its configurations. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoetrope.model.caching.ratios import check_digest
from zoetrope.model.catalog.checkpoint_layout import (
    Component,
    read_autoencoder,
    read_image_encoder,
    read_text_encoder,
    read_transformers,
    tokenizer_directory,
)
from zoetrope.model.catalog.model_card import transformer_config
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.families import family_of
from zoetrope.model.families.key_map import autoencoder_name, text_encoder_name
from zoetrope.model.families.network_shapes import Shapes, text_encoder_shapes
from zoetrope.model.inspection.files import ModelError, check_directory, check_is_content
from zoetrope.model.inspection.headers import FLOATS, Header
from zoetrope.model.inspection.keys import check_tensors, first_of, layer_counts
from zoetrope.model.inspection.packed import logical_headers, read_packed
from zoetrope.model.inspection.shown import printable
from zoetrope.model.request.tasks import ModelCard

TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer.model")
PROCESSOR_FILE = "preprocessor_config.json"
TIED = "encoder.embed_tokens.weight"  # the same tensor as shared.weight; some writers store both


def check_files(card: ModelCard) -> tuple[str, ...]:
    """Check that every file exists, is complete, and holds the tensors that the configurations call for.

    Returns:
        Warnings: tensors without a place in the network, which are ignored.

    Raises:
        ModelError: names the file that is missing, corrupt or quantised, or the key that is wrong.
    """
    source, family = source_of(card), family_of(card.family)
    warnings: list[str] = []
    for part in read_transformers(source):
        if part.random is None:
            shapes = family.shapes(transformer_config(part))
            warnings += _check(part, shapes, family.original_name)
            _check_products(card, part)
    if (folder := tokenizer_directory(source)) is not None:
        _check_tokenizer(folder)
    warnings += _check_text_encoder(read_text_encoder(source))
    _check_autoencoder(read_autoencoder(source))
    if transformer_config(read_transformers(source)[0]).image_dim is not None:
        _check_image_encoder(read_image_encoder(source))
    return tuple(warnings)


def checked(card: ModelCard) -> ModelCard:
    """Run `check_files` and add its warnings to the card. Raises ModelError as `check_files`."""
    return replace(card, warnings=(*card.warnings, *map(printable, check_files(card))))


def check_ratios(card: ModelCard) -> None:
    """Check that ratios which were measured on the model are of its weights. Raises ModelError if not."""
    check_digest(Path(card.directory), transformer_files(card))


def transformer_files(card: ModelCard) -> list[Path]:
    """List the weight files of the transformer, or of both noise experts. Raises ModelError if one is missing."""
    return [path for part in read_transformers(source_of(card)) for path in part.files]


def _check(part: Component, shapes: Shapes, original_name: Callable[[str], str]) -> list[str]:
    stored = _headers(part, original_name)
    left_over = check_tensors(shapes, stored, part.directory)
    for name in shapes:
        _check_type(stored[name])
    told = f"{part.directory}: the weights hold {first_of(left_over or [''])} that is not known and is ignored"
    return [told] if left_over else []


def _headers(part: Component, original_name: Callable[[str], str] = str) -> dict[str, Header]:
    return logical_headers(read_packed(part.files, part.prefix), part.rename(original_name))


def _check_products(card: ModelCard, part: Component) -> None:
    """Raise ModelError if products are to be in 8 bits, and the files ask for full precision."""
    if card.quantize == "none":
        return
    marked = [one.name for one in read_packed(part.files, part.prefix) if one.full_precision]
    if marked:
        raise ModelError(
            f"quantize: {part.directory} asks for products in full precision ({first_of(marked)}): leave out "
            f"--quantize {card.quantize}"
        )


def _check_type(header: Header) -> None:
    if header.dtype not in FLOATS:
        raise ModelError(
            f"{header.path}: {header.name} is stored as {header.dtype}, expected one of {', '.join(FLOATS)}: quantised "
            "weights are not supported"
        )


def _check_text_encoder(part: Component) -> list[str]:
    stored = _headers(part, text_encoder_name)
    if TIED in stored:
        tied = stored.pop(TIED)
        stored.setdefault("shared.weight", tied)
    for header in stored.values():
        _check_type(header)
    if part.original:  # it has no configuration; the loader reads the widths from the weights
        for name in ("shared.weight", "encoder.final_layer_norm.weight"):
            if name not in stored:
                raise ModelError(f"{part.files[0]}: the weights lack {name}")
        return []
    path = part.directory / "config.json"
    try:
        shapes = text_encoder_shapes(part.config)
    except KeyError as error:
        raise ModelError(f"{path}: {error.args[0]} is missing") from None
    except TypeError:
        raise ModelError(f"{path}: a width or number of layers is not a number") from None
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from None
    left_over = check_tensors(shapes, stored, part.directory)
    return [f"{part.directory}: the weights hold {first_of(left_over)} that is not used"] if left_over else []


def _check_autoencoder(part: Component) -> None:
    """Check the tensors at both ends; the loader compares all of them."""
    stored = _headers(part, autoencoder_name)
    for header in stored.values():
        _check_type(header)
    if part.class_name != "AutoencoderKLWan":
        return
    z_dim, width = part.config.get("z_dim", 16), part.config.get("base_dim")
    _check_width(part, stored, "post_quant_conv.weight", z_dim, "z_dim")
    _check_width(part, stored, "encoder.conv_in.weight", width, "base_dim")


def _check_image_encoder(part: Component) -> None:
    stored = _headers(part)
    if part.single is not None:
        return
    if part.original:
        if not any(name.startswith("visual.") for name in stored):
            raise ModelError(f"{part.files[0]}: holds no vision tower of CLIP under visual.*")
        return
    short = {name.removeprefix("vision_model."): header for name, header in stored.items()}
    for header in short.values():
        if "position_ids" not in header.name:
            _check_type(header)
    _check_width(part, short, "embeddings.class_embedding", part.config.get("hidden_size"), "hidden_size")
    layers = part.config.get("num_hidden_layers")
    held = layer_counts(short).get("encoder.layers", 0)
    if layers is not None and held != layers:
        raise ModelError(f"{part.directory}: num_hidden_layers is {layers} and the weights hold {held}")
    processor = part.directory.parent / "image_processor"
    check_directory(processor)
    check_is_content(processor / PROCESSOR_FILE)


def _check_width(part: Component, stored: dict[str, Header], name: str, expected: Any, key: str) -> None:
    header = stored.get(name)
    if header is None:
        raise ModelError(f"{part.directory}: the weights lack {name}")
    if expected is not None and header.shape[:1] != (expected,):
        where = part.files[0] if part.original else part.directory / "config.json"
        raise ModelError(f"{where}: {key} is {expected}, {name} has shape {list(header.shape)}")


def _check_tokenizer(directory: Path) -> None:
    check_directory(directory)
    found = [directory / name for name in TOKENIZER_FILES if (directory / name).exists()]
    if not found:
        raise ModelError(f"{directory}: holds no tokenizer file, neither {' nor '.join(TOKENIZER_FILES)}")
    for path in (*found, *directory.glob("*.json")):
        check_is_content(path)

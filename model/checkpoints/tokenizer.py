"""Make a tokenizer of what a text encoder's single file has beside its weights.

ComfyUI's files hold the SentencePiece model as bytes, llama.cpp's GGUF files its pieces as fields. Both are unigram
models; what follows from them (the normaliser, ``▁`` in front of words, ``</s>`` at the end) is as in T5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.headers import FileContents, Header, read_contents
from zoetrope.model.inspection.packed import TOKENIZER_TENSOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "</s>"
MAX_MODEL_BYTES = 64 << 20  # UMT5's has 4.5 MB
UNIGRAM = 1
# Numbers of fields in SentencePiece's sentencepiece_model.proto.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE = 1, 2
_MODEL_TYPE, _BYTE_FALLBACK, _UNK_ID = 3, 35, 40
_CHARSMAP = 2


@dataclass(frozen=True)
class Unigrams:
    """A unigram model: pieces with their scores, the number of the unknown piece, the normaliser's map (may be empty),
    and whether unknown characters become bytes."""

    pieces: Sequence[tuple[str, float]]
    unknown: int
    charsmap: bytes = b""
    byte_fallback: bool = False


def read_tokenizer(files: Sequence[Path]) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a text encoder's files.

    Raises:
        ModelError: there is none in them, or it is damaged.
    """
    for path in files:
        contents = read_contents(path)
        tensor = next((header for header in contents.headers if header.name == TOKENIZER_TENSOR), None)
        if tensor is not None:
            return make_tokenizer(parse_sentencepiece(_bytes(tensor), path), path)
        if "tokenizer.ggml.tokens" in contents.fields:
            return make_tokenizer(_of_gguf(contents), path)
    raise ModelError(f"{files[0]}: has no tokenizer in it")


def make_tokenizer(unigrams: Unigrams, path: Path) -> PreTrainedTokenizerFast:
    """Return a tokenizer in transformers' form. Raises ModelError if a piece that T5 needs is missing."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    numbers = {piece: number for number, (piece, _) in enumerate(unigrams.pieces)}
    if PAD not in numbers or EOS not in numbers or not 0 <= unigrams.unknown < len(unigrams.pieces):
        raise ModelError(f"{path}: its tokenizer lacks {PAD}, {EOS} or a piece for what is unknown")
    pieces = list(unigrams.pieces)
    tokenizer = Tokenizer(Unigram(pieces, unk_id=unigrams.unknown, byte_fallback=unigrams.byte_fallback))
    if unigrams.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(unigrams.charsmap)
    space: dict[str, Any] = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    words = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**space)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    tokenizer.decoder = decoders.Metaspace(**space)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, numbers[EOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=pieces[unigrams.unknown][0]
    )


def parse_sentencepiece(data: bytes, path: Path) -> Unigrams:
    """Read a SentencePiece model, a message in protobuf's wire format.

    Args:
        path: the file to name in errors.

    Raises:
        ModelError: it is damaged, or is not a unigram model.
    """
    pieces: list[tuple[str, float]] = []
    unknown, byte_fallback, charsmap, kind = 0, False, b"", UNIGRAM
    try:
        for number, value in _fields(data):
            if number == _PIECES:
                inner = dict(_fields(value))
                pieces.append((inner.get(_PIECE, b"").decode(), float(inner.get(_SCORE, 0.0))))
            elif number == _TRAINER:
                inner = dict(_fields(value))
                unknown = inner.get(_UNK_ID, 0)
                byte_fallback, kind = bool(inner.get(_BYTE_FALLBACK, 0)), inner.get(_MODEL_TYPE, UNIGRAM)
            elif number == _NORMALIZER:
                charsmap = dict(_fields(value)).get(_CHARSMAP, b"")
    except (ValueError, IndexError, struct.error, AttributeError, TypeError):
        raise ModelError(f"{path}: {TOKENIZER_TENSOR} is damaged: it is not a SentencePiece model") from None
    if kind != UNIGRAM or not pieces:
        raise ModelError(f"{path}: {TOKENIZER_TENSOR} must be a unigram model")
    return Unigrams(pieces, unknown, charsmap, byte_fallback)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield numbers and values of a message's fields: whole numbers, floats, bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 5:
            yield number, struct.unpack_from("<f", data, at)[0]
            at += 4
        elif wire == 1:
            at += 8
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("cut off")
            yield number, data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {wire}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")


def _bytes(header: Header) -> bytes:
    size = header.end - header.start
    if header.dtype not in ("U8", "I8") or not 0 < size <= MAX_MODEL_BYTES:
        raise ModelError(f"{header.path}: {header.name} must be 1 to {MAX_MODEL_BYTES} bytes")
    with header.path.open("rb") as file:
        file.seek(header.start)
        return file.read(size)


def _of_gguf(contents: FileContents) -> Unigrams:
    fields: Mapping[str, Any] = contents.fields
    model = fields.get("tokenizer.ggml.model")
    if model != "t5":
        raise ModelError(f"{contents.path}: tokenizer.ggml.model is {str(model)[:40]!r}, expected 't5'")
    tokens, scores = fields["tokenizer.ggml.tokens"], fields.get("tokenizer.ggml.scores", ())
    good = isinstance(tokens, tuple) and isinstance(scores, tuple) and len(tokens) == len(scores)
    if not good or not all(isinstance(token, str) for token in tokens):
        raise ModelError(f"{contents.path}: tokenizer.ggml.tokens and tokenizer.ggml.scores must go together")
    unknown = fields.get("tokenizer.ggml.unknown_token_id", 2)
    charsmap = bytes(byte & 0xFF for byte in fields.get("tokenizer.ggml.precompiled_charsmap", ()))
    fallback = "<0x00>" in tokens
    pieces = [(token, float(score)) for token, score in zip(tokens, scores, strict=True)]
    return Unigrams(pieces, unknown if type(unknown) is int else -1, charsmap, fallback)

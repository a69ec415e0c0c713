"""A header that lies is refused; no bytes of a stranger's make the reader fail in another way, or read further."""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.adapter_styles import CONFIG, STYLES, block_modules, random_pairs, styled, write
from zoetrope.model.adapters import parse
from zoetrope.model.adapters.files.card import check_adapters
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.safetensors_header import MAX_BRACKETS, HeaderLimits, read_safetensors_header

FILES = 2_000


def test_a_header_says_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(2, 3), "b": torch.zeros(0, 4), "c": torch.randn(5).bfloat16(), "d": torch.tensor(1.0)}
    path = write(tmp_path / "a.safetensors", tensors, {"format": "pt"})
    header = read_safetensors_header(path)
    theirs = load_file(path)
    assert {name: span.shape for name, span in header.tensors.items()} == {n: tuple(t.shape) for n, t in theirs.items()}
    assert header.metadata == {"format": "pt"}
    assert torch.equal(torch.frombuffer(header.read("c"), dtype=torch.bfloat16), theirs["c"])


def raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": offsets}


MANY = b"{" + ",".join(f'"{i % 99_999}":1' for i in range(100_000)).encode() + b"}"
LIES: dict[str, tuple[object, str]] = {
    "no object": ([], "header is damaged"),
    "no JSON": (b"{]", "header is damaged"),
    "no text": (b"\xff\xfe{}", "header is damaged"),
    "deep": (b"[" * 100_000, "header is damaged"),
    "twice": (b'{"a": 1, "a": 2}', "names a twice"),
    "twice among many": (MANY, "names 0 twice"),
    "no entry": ({"a": 1}, "damaged at a"),
    "more keys": ({"a": {**entry(), "x": 1}}, "damaged at a"),
    "a negative side": ({"a": entry((-2, -1))}, "damaged at a"),
    "a broken side": ({"a": entry((2.0,))}, "damaged at a"),
    "a flag as a side": ({"a": entry((True, 2))}, "damaged at a"),
    "many sides": ({"a": entry((1,) * 9)}, "damaged at a"),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, "damaged at a"),
    "no offsets": ({"a": entry(offsets=None)}, "damaged at a"),
    "an unknown type": ({"a": entry(dtype="F31")}, "stored as F31, which is no type"),
    "no type": ({"a": entry(dtype=["F32"])}, "which is no type"),
    "backwards": ({"a": entry(offsets=(8, 0))}, "has -8 bytes, its shape and type need 8"),
    "too short": ({"a": entry((4,))}, "has 8 bytes, its shape and type need 16"),
    "a vast shape": ({"a": entry((2**62, 2**62))}, "its shape and type need"),
    "overlapping": ({"a": entry(), "b": entry(offsets=(4, 12))}, "b overlaps the one before it"),
    "the same": ({"a": entry(), "b": entry()}, "overlaps the one before it"),
    "with a gap": ({"a": entry((1,), (4, 8))}, "a does not follow the one before it"),
    "past the end": ({"a": entry((4,), (0, 16))}, "cut off"),
    "before the end": ({"a": entry((1,), (0, 4))}, "too long"),
    "no texts": ({"__metadata__": {"a": 1}, "a": entry()}, "__metadata__ is not texts by name"),
    "odd characters": ({"a\n\x1b[31m": 1}, r"damaged at 'a\\n\\x1b\[31m'"),
}


@pytest.mark.parametrize("name", LIES)
def test_lies_are_refused(name: str, tmp_path: Path) -> None:
    header, expected = LIES[name]
    with pytest.raises(ModelError, match=expected):
        read_safetensors_header(raw(tmp_path / "a.safetensors", header, b"\0" * 8))


def test_limits_are_kept(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(4), "b": torch.zeros(4)}
    path = write(tmp_path / "a.safetensors", tensors, {"k": "v" * 100})
    for limits, expected in (
        (HeaderLimits(tensors=1), "holds 2 tensors, at most 1"),
        (HeaderLimits(metadata_bytes=100), "its __metadata__ has 101 characters, at most 100"),
        (HeaderLimits(types=("BF16",)), "is stored as F32, expected one of BF16"),
        (HeaderLimits(file_bytes=10), "at most 10 are read"),
        (HeaderLimits(header_bytes=10), "does not begin with a header"),
    ):
        with pytest.raises(ModelError, match=expected):
            read_safetensors_header(path, limits)


def test_a_header_of_brackets_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Three bytes of an empty list take twenty times as much once they are read."""
    text = b'{"a": [' + b"[]," * MAX_BRACKETS + b"[]]}"
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    tracemalloc.start()
    with pytest.raises(
        ModelError, match=f"its header has {MAX_BRACKETS + 3} brackets, at most {MAX_BRACKETS} are read"
    ):
        read_safetensors_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(text)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for content, expected in (
        (b"", "does not begin with a header"),
        (b"PK\x03\x04" + b"\0" * 400, "cut off|does not begin"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        ((100).to_bytes(8, "little") + b"{", "cut off after 9 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=expected):
            read_safetensors_header(path)
    with pytest.raises(ModelError, match="is not a file"):
        read_safetensors_header(tmp_path)


def damaged(data: bytes, length: int, chance: random.Random) -> bytes:
    """A file with some bytes of its header, or of its length, changed, cut out, or doubled."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = min(chance.randrange(8 if chance.random() < 0.1 else length + 8), len(made) - 2)
        match chance.randrange(5):
            case 0:
                made[place] = chance.randrange(256)
            case 1:
                del made[place : place + chance.randint(1, 9)]
            case 2:
                made[place:place] = made[place : place + chance.randint(1, 40)]
            case 3:
                made[place : place + 1] = chance.choice([b"9", b"-", b"[", b"}", b'"', b"1e9", b"null", b"\xff", b"\0"])
            case 4:
                del made[chance.randrange(8, max(9, len(made))) :]
    if chance.random() < 0.5:  # as if the length were right
        made[:8] = (max(2, length + len(made) - len(data))).to_bytes(8, "little")
    return bytes(made)


def test_thousands_of_damaged_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused by a ModelError, or is still an adapter; no tensor is made of any."""
    monkeypatch.setattr(parse, "_tensor", lambda *_: pytest.fail("a tensor was loaded"))
    pairs = random_pairs(block_modules(1, ("attn1.to_q", "attn2.to_out.0")), rank=2)
    path = write(tmp_path / "a.safetensors", styled(STYLES["musubi-tuner"], pairs), {"lora_adapter_metadata": "{}"})
    whole, chance = path.read_bytes(), random.Random(19)
    length, refused = int.from_bytes(whole[:8], "little"), 0
    for _ in range(FILES):
        path.write_bytes(damaged(whole, length, chance))
        try:
            assert check_adapters([str(path)], CONFIG, networks=1).adapters
        except ModelError as error:
            refused += 1
            assert str(error).isprintable() or "\n" not in str(error)
    assert FILES * 0.8 < refused <= FILES

"""Headers of weight files: read as their formats say, and a damaged file is refused without harm."""

from __future__ import annotations

import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.gguf_header import read_gguf_header
from zoetrope.model.inspection.headers import MAX_PICKLE_BYTES, FileContents, read_contents
from zoetrope.model.inspection.keys import check_tensors, first_of
from zoetrope.model.inspection.packed import pack

FILES = (200, pytest.param(2_000, marks=pytest.mark.long))


def write_safetensors(path: Path) -> None:
    tensors = {
        "blocks.0.ffn.0.weight": torch.ones(8, 4).to(torch.float8_e4m3fn),
        "blocks.0.ffn.0.scale_weight": torch.ones(()),
        "blocks.0.ffn.0.bias": torch.ones(8, dtype=torch.bfloat16),
        "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn),
        "empty": torch.zeros(0, 3),
    }
    save_file(tensors, path, {"format": "pt", "_quantization_metadata": json.dumps({"layers": {}})})


def write_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_array("comfy.gguf.orig_shape.patch_embedding.weight", [4, 2, 1, 2, 2])
    writer.add_tensor("patch_embedding.weight", np.ones((8, 1, 2, 2), np.float32))
    writer.add_tensor("patch_embedding.bias", np.ones(4, np.float32))
    blocks = gguf.quants.quantize(np.ones((4, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blocks.0.ffn.0.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def described(contents: FileContents) -> dict[str, tuple[tuple[int, ...], str]]:
    return {header.name: (header.shape, header.dtype) for header in contents.headers}


def test_safetensors_are_described_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(path)
    contents = read_contents(path)
    assert described(contents)["blocks.0.ffn.0.bias"] == ((8,), "BF16")
    assert contents.metadata["format"] == "pt"
    bias = next(header for header in contents.headers if header.name.endswith("bias"))
    assert (
        path.read_bytes()[bias.start : bias.end]
        == torch.ones(8, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    )


def test_gguf_is_described_as_the_gguf_package_does(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write_gguf(path)
    header, theirs = read_gguf_header(path), gguf.GGUFReader(path)
    assert header.fields["general.architecture"] == "wan"
    assert header.fields["tokenizer.ggml.tokens"] == ("a", "b", "c")
    found = {e.name: (e.kind, e.shape, e.start, e.end - e.start) for e in header.entries}
    expected = {
        t.name: (t.tensor_type.name, tuple(int(side) for side in reversed(t.shape)), int(t.data_offset), int(t.n_bytes))
        for t in theirs.tensors
    }
    assert found == expected
    assert described(read_contents(path))["patch_embedding.weight"] == ((4, 2, 1, 2, 2), "F32")


def test_a_flat_patch_embedding_gets_its_shape_from_its_bias(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_tensor("model.diffusion_model.patch_embedding.weight", np.ones((12, 1, 2, 2), np.float16))
    writer.add_tensor("model.diffusion_model.patch_embedding.bias", np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert described(read_contents(path))["model.diffusion_model.patch_embedding.weight"] == ((4, 3, 1, 2, 2), "F16")


@pytest.mark.parametrize("write", [write_safetensors, write_gguf])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.94])
def test_a_cut_off_file_is_told(tmp_path: Path, write: Callable[[Path], None], share: float) -> None:
    path = tmp_path / ("a.gguf" if write is write_gguf else "a.safetensors")
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"cut off|does not begin with"):
        read_contents(path)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_of(
    tensors: list[tuple[str, list[int], int, int]], fields: bytes = b"", count: int = 0, data: int = 0
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), count) + fields
    for name, sides, kind, offset in tensors:
        head += text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)
    return head + b"\0" * (-len(head) % 32) + b"\0" * data


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"GGML" + b"\0" * 40, "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1 is not read"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "1099511627776 tensors, at most 20000"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "1099511627776 fields, at most 10000"),
        (gguf_of([], struct.pack("<Q", 1 << 50), 1), "a text of 1125899906842624 bytes"),
        (gguf_of([], text("a") + struct.pack("<IIQ", 9, 4, 1 << 50), 1), "1125899906842624 items, at most"),
        (gguf_of([], text("a") + struct.pack("<IIQ", 9, 9, 1), 1), "is of type 9"),
        (gguf_of([], text("general.alignment") + struct.pack("<II", 4, 24), 1), "24, must be a power of two"),
        (gguf_of([("a", [32], 8, 0)], data=30), "cut off"),
        (gguf_of([("a", [33], 8, 0)], data=64), "rows of 33, Q8_0 needs a multiple of 32"),
        (gguf_of([("a", [8], 0, 8)], data=64), "does not begin at a multiple of 32"),
        (gguf_of([("a", [16], 0, 0), ("b", [16], 0, 32)], data=128), "b shares bytes"),
        (gguf_of([("a", [8], 0, 0), ("a", [8], 0, 32)], data=128), "holds a twice"),
        (gguf_of([("a", [256], 16, 0)], data=128), "a is of type IQ2_XXS; types that are read: F32, F16"),
        (gguf_of([("a", [256], 39, 0)], data=128), "a is of type MXFP4"),
        (gguf_of([("a", [1 << 40, 1 << 20], 0, 0)], data=128), "has .* values"),
        (gguf_of([("a", [], 0, 0)], data=128), "0 dimensions"),
    ],
)
def test_rules_of_gguf(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said):
        read_gguf_header(path)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, insert, remove or double a few bytes, most of them in the header."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(min(len(changed), 700))
        how = rng.randrange(5)
        if how == 0:
            changed[at] = rng.randrange(256)
        elif how == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            del changed[at : at + rng.randint(1, 9)]
        elif how == 3:
            changed[at:at] = rng.randbytes(rng.randint(1, 9))
        else:
            changed[at : at + 8] = rng.choice([b"\xff" * 8, b"\0" * 8, (1 << 62).to_bytes(8, "little")])
    return bytes(changed)


@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("write", [write_safetensors, write_gguf])
def test_mutated_files_are_read_or_refused(tmp_path: Path, write: Callable[[Path], None], files: int) -> None:
    path = tmp_path / ("a.gguf" if write is write_gguf else "a.safetensors")
    write(path)
    data, rng, refused = path.read_bytes(), random.Random(7), 0
    for _ in range(files):
        path.write_bytes(mutated(data, rng))
        try:
            contents = read_contents(path)
            pack([contents])
        except ModelError as error:
            refused += 1
            assert str(path) in str(error) or "two files claim" in str(error)
            continue
        size = path.stat().st_size
        assert all(0 <= header.start <= header.end <= size for header in contents.headers)
    assert refused > files / 4


def pickled(path: Path, compression: int = zipfile.ZIP_STORED, data: bytes | None = None) -> Path:
    """A file as PyTorch writes it, of zeros, and its pickle perhaps replaced."""
    torch.save({"a": torch.zeros(8)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, data if data is not None and name.endswith("data.pkl") else content)
    return path


def test_a_pickle_that_is_compressed_is_refused_unread(tmp_path: Path) -> None:
    """A few kilobytes of it may be gigabytes."""
    assert [header.shape for header in read_contents(pickled(tmp_path / "a.pth")).headers] == [(8,)]
    bomb = pickled(tmp_path / "b.pth", zipfile.ZIP_DEFLATED, bytes(MAX_PICKLE_BYTES + 1))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(ModelError, match=r"data\.pkl in it is compressed, which PyTorch never does"):
        read_contents(bomb)


def test_a_large_pickle_is_refused_unread(tmp_path: Path) -> None:
    path = pickled(tmp_path / "a.pth", data=bytes(MAX_PICKLE_BYTES + 1))
    with pytest.raises(
        ModelError, match=f"its pickle has {MAX_PICKLE_BYTES + 1} bytes, at most {MAX_PICKLE_BYTES} are"
    ):
        read_contents(path)


def test_a_pickle_that_asks_for_memory_is_refused(tmp_path: Path) -> None:
    """By the number of a part, up to which Python sets memory aside: 64 GB for this one."""
    path = pickled(tmp_path / "a.pth", data=b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(ModelError, match="its pickle has 9 bytes and numbers a part of them 2147483647"):
        read_contents(path)


ESCAPE = "blocks.0.\x1b]0;owned\x07\x1b[2J\u202eweight"


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({f"{ESCAPE}.scale_weight": torch.ones(())}, path)
    with pytest.raises(ModelError, match=r"holds blocks\.0\.\\x1b\]0;owned") as error:
        pack([read_contents(path)])
    assert str(error.value).isprintable()
    save_file({f"{ESCAPE}.lora_A": torch.ones(1), "blocks.0.ffn": torch.ones(1)}, path)
    headers = {header.name: header for header in read_contents(path).headers}
    for wanted in ({"blocks.0.ffn": (1,)}, {"blocks.0.ffn": (1,), "blocks.0.bias": (1,)}):
        with pytest.raises(ModelError) as error:
            check_tensors(wanted, headers, path)
        assert str(error.value).isprintable()
    save_file({f"other{ESCAPE}": torch.ones(1), "blocks.0.ffn": torch.ones(1)}, path)
    headers = {header.name: header for header in read_contents(path).headers}
    assert first_of(check_tensors({"blocks.0.ffn": (1,)}, headers, path)).isprintable()

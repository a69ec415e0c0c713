"""Find a checkpoint's files and check that they are readable and real, not placeholders. Needs no torch."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from zoetrope.model.inspection.shown import printable, shown

MAX_JSON_BYTES = 64 << 20  # the indices of the largest checkpoints have a few megabytes
TOML_SUFFIX = ".toml"
MAX_TOML_BYTES = 64 << 10
MAX_MESSAGE_CHARS = 1_000
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4_095  # of Linux
VARIANTS = ("fp16", "bf16", "fp32")  # of the same weights; others, such as ema, are other weights
DIFFUSERS_STEM = "diffusion_pytorch_model"
LFS_START = b"version https://git-lfs.github.com/spec/"
LFS_HINT = "is a Git LFS pointer, not the file itself: run git lfs pull where it was cloned, or download it again"


class ModelError(Exception):
    """A model cannot be used: unknown, incomplete or of another family. The message names the file or key and the
    reason; long values are cut, and what no terminal should get is escaped."""

    def __init__(self, message: str) -> None:
        message = printable(message)
        super().__init__(message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 3] + "...")


def typed_path(text: str, what: str) -> Path:
    """Return the path that somebody wrote, ``~`` standing for a home folder.

    Args:
        what: the option, key or argument, to name in errors.

    Raises:
        ModelError: no file can have such a path.
    """
    if not text.strip():
        raise ModelError(f"{what}: is empty, must be a path")
    if any(ord(char) < ord(" ") or char == "\x7f" for char in text):
        raise ModelError(f"{what}: {shown(text)} holds a control character, no path here may")
    path = Path(os.path.expanduser(text))
    name = max(path.parts, key=len, default="")
    if (length := len(name.encode(errors="replace"))) > MAX_NAME_BYTES:
        raise ModelError(f"{what}: {shown(name)} has {length} bytes, a file's name has at most {MAX_NAME_BYTES}")
    if (length := len(str(path).encode(errors="replace"))) > MAX_PATH_BYTES:
        raise ModelError(f"{what}: {shown(text)} has {length} bytes, a path has at most {MAX_PATH_BYTES}")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file is missing, a Git LFS pointer, larger than MAX_JSON_BYTES, or holds no JSON object.
    """
    check_is_content(path)
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ModelError(f"{path}: has {size} bytes, at most {MAX_JSON_BYTES} are read")
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ModelError(f"{path}: cannot be read as JSON: it is nested too deep") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: must be a JSON object")
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ModelError: the file is missing, larger than MAX_TOML_BYTES, or no TOML.
    """
    check_is_content(path)
    try:
        if (size := path.stat().st_size) > MAX_TOML_BYTES:
            raise ModelError(f"{path}: has {size} bytes, at most {MAX_TOML_BYTES} are read")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a mark
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as TOML: {str(error).splitlines()[0]}") from None


def check_is_content(path: Path) -> None:
    """Check that a file exists and is not a Git LFS pointer.

    Raises:
        ModelError: it is missing, a broken link, not a regular file, unreadable or a Git LFS pointer.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            raise ModelError(f"{path}: is not a file")
        with path.open("rb") as file:
            start = file.read(len(LFS_START))
    except FileNotFoundError:
        raise ModelError(f"{path}: {why_missing(path)}") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if start == LFS_START:
        raise ModelError(f"{path}: {LFS_HINT}")


def weight_files(directory: Path, stem: str = DIFFUSERS_STEM, pickle_stem: str = DIFFUSERS_STEM) -> list[Path]:
    """Find a component's weight files: one, or those that its index names; safetensors before ``.bin``, and the only
    variant (fp16, bf16) where there is no other.

    Raises:
        ModelError: a file is missing, the index has no ``weight_map``, or there are several variants.
    """
    for name in (f"{stem}.safetensors", f"{pickle_stem}.bin"):
        index = directory / f"{name}.index.json"
        if index.exists():
            return _indexed_files(index)
        if (directory / name).is_file():
            return [directory / name]
    variants = [one for one in VARIANTS if _variant(directory, stem, one)]
    if len(variants) > 1:
        raise ModelError(f"{directory}: holds the variants {' and '.join(variants)} of {stem}: remove all but one")
    if variants:
        return _variant(directory, stem, variants[0])
    expected = directory / f"{stem}.safetensors"
    raise ModelError(f"{expected}: {why_missing(expected)}{_instead(directory, stem, pickle_stem)}")


def variant_of(path: Path) -> str | None:
    """Return the variant that a weight file's name says: fp16, bf16 or fp32."""
    return next((one for one in VARIANTS if re.search(rf"\.{one}(-\d+-of-\d+)?\.safetensors$", path.name)), None)


def _variant(directory: Path, stem: str, variant: str) -> list[Path]:
    """Find the files of a variant, as diffusers and transformers name them; none if there are none."""
    index = directory / f"{stem}.safetensors.index.{variant}.json"
    if index.exists():
        return _indexed_files(index)
    path = directory / f"{stem}.{variant}.safetensors"
    return [path] if path.is_file() else []


def check_directory(path: Path, why: str = "") -> None:
    """Raise ModelError if a directory is missing; ``why`` says what needs it."""
    if not path.is_dir():
        link = ", it is a link to one that is not there" if path.is_symlink() else ""
        raise ModelError(f"{path}: the directory is missing{link}{why}")


def _indexed_files(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelError(f"{index}: weight_map is missing")
    outside = next((name for name in weight_map.values() if Path(name).is_absolute() or ".." in Path(name).parts), None)
    if outside is not None:
        raise ModelError(f"{index}: weight_map names {outside!r}, which is not in its folder")
    paths = [index.parent / name for name in sorted(set(weight_map.values()))]
    gone = [path for path in paths if not path.is_file()]
    if gone:
        raise ModelError(f"{gone[0]}: {why_missing(gone[0])}; {len(gone)} of the {len(paths)} that {index.name} names")
    return paths


def why_missing(path: Path) -> str:
    """Say why there is no file: a link may lead nowhere."""
    if path.is_symlink():
        return f"is a link to {os.readlink(path)}, which is not there: the download is incomplete"
    return "the file is missing"


def _instead(directory: Path, stem: str, pickle_stem: str) -> str:
    """Describe what is there instead of the weights, if that can be told."""
    names = sorted(path.name for path in directory.glob("*")) if directory.is_dir() else []
    stems = "|".join(map(re.escape, dict.fromkeys((stem, pickle_stem))))
    kinds = "safetensors|bin"
    variant = re.compile(rf"(?:{stems})\.(?:(?:{kinds})\.index\.)?(\w+)(?:-\d+-of-\d+)?\.(?:{kinds}|json)")
    for name in names:
        if (match := variant.fullmatch(name)) and match[1] != "index":
            if match[1] in VARIANTS and "-of-" in name:
                return f"; {name} is a part of several, whose index {stem}.safetensors.index.{match[1]}.json is missing"
            return (
                f"; only the variant {match[1]} is there ({name}), of which nothing is loaded unasked (as of "
                f"{', '.join(VARIANTS)}): name its files as those without {match[1]} are, or download those"
            )
    if shards := [name for name in names if re.fullmatch(rf"(?:{stems})-\d+-of-\d+\.(?:safetensors|bin)", name)]:
        return f"; {shards[0]} is a part of several, whose index {stem}.safetensors.index.json is missing"
    if any(name.endswith(".gguf") for name in names):
        return "; a GGUF file is a model by itself: give it as --model, and the other components beside it"
    return ""

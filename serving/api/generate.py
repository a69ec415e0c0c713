"""Generates the Python code of the protos: ``python -m zoetrope.serving.api.generate [--out DIR]``.

The generated files are committed; a test regenerates them and compares.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from importlib.resources import files
from pathlib import Path

HERE = Path(__file__).parent
PROTOS = tuple(f"zoetrope/video/v1/{name}.proto" for name in ("account", "engines", "media", "video"))
GENERATED = (".py", ".pyi")
# The project keeps the package below serving.api, protoc assumes that it is at the top.
MODULE = re.compile(r"\bzoetrope\.video\.v1(?= import |\.\w+_pb2\b)")


def generate(out: Path) -> list[Path]:
    """Write ``NAME_pb2.py``, ``NAME_pb2.pyi`` and ``NAME_pb2_grpc.py`` of every proto, below `out`.

    Returns:
        The paths, relative to `out`, sorted.

    Raises:
        RuntimeError: protoc found an error, which it has printed.
    """
    from grpc_tools import protoc  # only developers have it

    with tempfile.TemporaryDirectory() as directory:
        results = Path(directory)
        well_known = str(files("grpc_tools") / "_proto")
        outputs = [f"--{kind}_out={results}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{HERE}", f"-I{well_known}", *outputs, *PROTOS]) != 0:
            raise RuntimeError("protoc failed")
        written = sorted(path for path in results.rglob("*") if path.suffix in GENERATED)
        for path in written:
            target = out / path.relative_to(results)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(MODULE.sub("zoetrope.serving.api.zoetrope.video.v1", path.read_text()))
        return [path.relative_to(results) for path in written]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="directory above zoetrope/ (default: here)")
    out: Path = parser.parse_args().out
    for path in generate(out):
        print(out / path)


if __name__ == "__main__":
    main()

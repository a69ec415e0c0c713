"""Generates the Python code of the protos: ``python -m serving.api.generate [--out DIR]``.

The generated files are committed; a test regenerates them and compares.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2

HERE = Path(__file__).parent
PROTOS = tuple(f"zoetrope/video/v1/{name}.proto" for name in ("account", "media", "video"))
GENERATED = (".py", ".pyi")
# What our protos import, directly or not, as googleapis-common-protos ships it. Its long-running proto carries another
# name there, though its Python module registers the canonical one.
GOOGLE_PROTOS = {
    "google/api/annotations.proto": "google/api/annotations.proto",
    "google/api/client.proto": "google/api/client.proto",
    "google/api/field_behavior.proto": "google/api/field_behavior.proto",
    "google/api/http.proto": "google/api/http.proto",
    "google/api/launch_stage.proto": "google/api/launch_stage.proto",
    "google/longrunning/operations.proto": "google/longrunning/operations_proto.proto",
    "google/rpc/status.proto": "google/rpc/status.proto",
}
# The project keeps the package below serving.api, protoc assumes that it is at the top.
MODULE = re.compile(r"\bzoetrope\.video\.v1(?= import |\.\w+_pb2\b)")


def copy_sources(target: Path) -> None:
    """Lay out our protos and all that they import under their canonical names, as protoc and buf want them."""
    # `google` is a namespace that several distributions share, so the directory is found by a module of the right one.
    site = Path(status_pb2.__file__).parents[2]
    sources = {name: site / shipped for name, shipped in GOOGLE_PROTOS.items()} | {name: HERE / name for name in PROTOS}
    for name, source in sources.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)


def generate(out: Path) -> list[Path]:
    """Write ``NAME_pb2.py``, ``NAME_pb2.pyi`` and ``NAME_pb2_grpc.py`` of every proto, below `out`.

    Returns:
        The paths, relative to `out`, sorted.

    Raises:
        RuntimeError: protoc found an error, which it has printed.
    """
    from grpc_tools import protoc  # only developers have it

    with tempfile.TemporaryDirectory() as directory:
        sources, results = Path(directory, "sources"), Path(directory, "results")
        results.mkdir()
        copy_sources(sources)
        well_known = str(files("grpc_tools") / "_proto")
        outputs = [f"--{kind}_out={results}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{sources}", f"-I{well_known}", *outputs, *PROTOS]) != 0:
            raise RuntimeError("protoc failed")
        written = sorted(path for path in results.rglob("*") if path.suffix in GENERATED)
        for path in written:
            target = out / path.relative_to(results)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(MODULE.sub("serving.api.zoetrope.video.v1", path.read_text()))
        return [path.relative_to(results) for path in written]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="directory above zoetrope/ (default: here)")
    out: Path = parser.parse_args().out
    for path in generate(out):
        print(out / path)


if __name__ == "__main__":
    main()

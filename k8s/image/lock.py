"""Write the exact packages of an image, with the hash of each wheel: requirements-cpu.txt or requirements-cuda.txt.

    python k8s/image/lock.py cpu PIP_OPTION...
    python k8s/image/lock.py cuda PIP_OPTION...

Run it with the Python of the image, 3.11, on x86-64 Linux, after a change of the dependencies in pyproject.toml. pip
chooses the versions and is given all further options; for ``cpu`` they must name an index, or a folder, with the small
CPU build of PyTorch. Nothing is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CONSTRAINTS = REPOSITORY / "constraints-cpu.txt"
PYTHON = (3, 11)  # of the base image
PROJECT = "zoetrope"
EXTRAS = "serve,postgres"
# What differs from constraints-cpu.txt. CUDA: the PyTorch whose Triton compiles every kernel; it wants setuptools < 82.
PINS: dict[str, tuple[str, ...]] = {"cpu": (), "cuda": ("torch==2.11.0", "triton==3.6.0", "setuptools<82")}


def lock(target: str, options: Sequence[str]) -> str:
    """Return the text of the requirements of a target, ``cpu`` or ``cuda``; ``options`` are pip's.

    Raises:
        subprocess.CalledProcessError: pip finds no solution.
        ValueError: a package has no wheel, or the CPU target would get a PyTorch for GPUs.
    """
    pinned = {re.split("[=<>]", pin)[0] for pin in PINS[target]}
    kept = [line for line in CONSTRAINTS.read_text().splitlines() if re.split("[=<>]", line)[0] not in pinned]
    with tempfile.TemporaryDirectory() as folder:
        constraints, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        constraints.write_text("\n".join((*kept, *PINS[target])) + "\n")
        resolve = ["install", "--quiet", "--dry-run", "--ignore-installed", "--only-binary", ":all:"]
        wanted = [f"{REPOSITORY}[{EXTRAS}]", *PINS[target]]
        given = ["--constraint", str(constraints), "--report", str(report), *options, *wanted]
        subprocess.run([sys.executable, "-m", "pip", *resolve, *given], check=True)
        found = json.loads(report.read_text())["install"]
    lines = sorted(_line(one) for one in found if one["metadata"]["name"] != PROJECT)
    if target == "cpu" and not any(re.match(r"torch==[^ ]*\+cpu ", line) for line in lines):
        raise ValueError("pip chose a PyTorch for GPUs: give it the index of the CPU build, as --extra-index-url URL")
    head = f"# Written by `python k8s/image/lock.py {target}`. For Python {PYTHON[0]}.{PYTHON[1]} on x86-64 Linux."
    return "\n".join((head, *lines)) + "\n"


def _line(one: dict[str, Any]) -> str:
    name = re.sub("[-_.]+", "-", one["metadata"]["name"]).lower()
    digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
    if digest is None:
        raise ValueError(f"{name}: has no hash, so it is not from a wheel")
    return f"{name}=={one['metadata']['version']} --hash=sha256:{digest}"


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] not in PINS:
        print(__doc__, file=sys.stderr)
        return 2
    if sys.version_info[:2] != PYTHON:
        print(f"error: needs Python {PYTHON[0]}.{PYTHON[1]}, this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    target, *options = arguments
    try:
        text = lock(target, options)
    except (subprocess.CalledProcessError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = HERE / f"requirements-{target}.txt"
    path.write_text(text)
    print(f"{path}: {len(text.splitlines()) - 1} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

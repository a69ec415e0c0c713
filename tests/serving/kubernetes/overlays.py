"""The overlays of the repository: where they are, how they are built, and how they are written anew.

`python -m tests.serving.kubernetes.overlays` writes each from its knobs.yaml.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path

from zoetrope.serving.cli.k8s import plan_sizing
from zoetrope.serving.kubernetes.check import kustomize
from zoetrope.serving.kubernetes.knobs import read_knobs
from zoetrope.serving.kubernetes.objects import Manifest, Tree, read_tree
from zoetrope.serving.kubernetes.render import render

ROOT = Path(__file__).resolve().parents[3]
OVERLAYS = ROOT / "k8s" / "overlays"
NAMES = tuple(sorted(path.name for path in OVERLAYS.iterdir()))
ABOVE = "../../"  # from an overlay to the base


@cache
def built(name: str) -> str:
    """The YAML of an overlay, as kustomize builds it."""
    return kustomize(OVERLAYS / name)


@cache
def _parsed(name: str) -> Tree:
    return read_tree(built(name))


def tree_of(name: str) -> Tree:
    """A copy of an overlay's objects, to be broken."""
    return Tree(tuple(Manifest(deepcopy(manifest.data)) for manifest in _parsed(name).manifests))


def write(name: str, target: Path) -> None:
    """Render an overlay from its knobs, but for the copies of the base."""
    knobs = read_knobs(OVERLAYS / name / "knobs.yaml", {})
    render(knobs, plan_sizing(knobs), target, ABOVE)


if __name__ == "__main__":
    for each in NAMES:
        write(each, OVERLAYS / each)

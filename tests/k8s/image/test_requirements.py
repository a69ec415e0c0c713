"""The packages of the image are those that the project asks for, each by its hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import zoetrope.k8s.image

HERE = Path(zoetrope.k8s.image.__file__).parent
ROOT = Path(__file__).parents[3]
EXTRAS = ("serve", "postgres")
LINE = re.compile(r"([a-z0-9-]+)==([^ ]+) --hash=sha256:[0-9a-f]{64}")


def locked(target: str) -> dict[str, str]:
    """The versions by name; every line but comments must have a hash."""
    found = {}
    for line in (HERE / f"requirements-{target}.txt").read_text().splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match is not None, line
            found[match[1]] = match[2]
    return found


def asked() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_what_the_project_asks_for_is_locked(target: str) -> None:
    versions = locked(target)
    for requirement in asked():
        name = re.sub("[-_.]+", "-", requirement.name).lower()
        assert name in versions, f"{name} is missing: python k8s/image/lock.py {target}"
        assert requirement.specifier.contains(versions[name]), f"{name} {versions[name]} is not {requirement.specifier}"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_versions_are_those_that_the_tests_ran_with(target: str) -> None:
    """But for PyTorch of the CUDA target, and what comes with it."""
    versions = locked(target)
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints-cpu.txt").read_text().splitlines())
    tested = dict(line.lower().split("==") for line in lines if "==" in line)
    other = {"torch"} if target == "cuda" else set[str]()
    for name in (versions.keys() & tested.keys()) - other:
        assert versions[name].split("+")[0] == tested[name], name


def test_each_target_has_its_pytorch() -> None:
    assert locked("cpu")["torch"].endswith("+cpu")
    assert not [name for name in locked("cpu") if name.startswith("nvidia-")]
    assert (locked("cuda")["torch"], locked("cuda")["triton"]) == ("2.11.0", "3.6.0")
    assert "nvidia-nccl-cu13" in locked("cuda")

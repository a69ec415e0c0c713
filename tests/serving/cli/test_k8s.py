"""`zoetrope k8s` as a user runs it."""

from __future__ import annotations

import json
import os
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
    assert "weights" not in "".join(out), "nano brings its own"
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


@pytest.mark.parametrize(
    ("knob", "words"),
    [
        ('public_url: "http://x\\nZOETROPE_UNSAFE_MEDIA=true"', "public-url: 'http://x\\nZOE"),
        ("public_url: javascript:x", "public-url: 'javascript:x' must be http://HOST or"),
        ("public_url: http://x:99999", "public-url: 'http://x:99999' must be http://HOST or"),
        ("prometheus: http://user@x", "prometheus: 'http://user@x' must be http://HOST or"),
        ("artifact_store: file:///etc", "artifact-store: 'file:///etc' must be s3://BUCKET/PREFIX"),
        ("artifact_store: s3://b/x?endpoint=http://h:99999", "artifact-store: 's3://b/x?endpoint=http://h:99999' must"),
        ("snapshot_store: 's3://b/x\", unsafe_media: true'", "snapshot-store: 's3://b/x\", unsafe_media: true' must"),
        ('weights_class: "a\\nb: c"', "weights-class: 'a\\nb: c' must be the name of a StorageClass"),
        ("weights_from: a; rm -rf /", "weights-from: 'a; rm -rf /' must be ORG/NAME"),
        ("node_labels: {a b: c}", "node-labels: 'a b' must be the key of a label"),
        ("node_labels: {x: $(id)}", "node-labels: x: '$(id)' must be up to 63 letters"),
        ("node_memory: 1e400", "node-memory: '1e400' must be a quantity"),
        ("node_memory: 1Mi", "node-memory: '1Mi' must be at least 2Gi"),
        ("namespace: kube-system", "namespace: 'kube-system' must be up to 63"),
        ("image: a:b:c", "image: 'a:b:c' must be an image with a tag"),
        ("longest_job_seconds: 99999999999999999999", "longest-job-seconds: "),
        ("card: /nowhere", "card: /nowhere: cannot be read: No such file or directory"),
        ("card: /etc/hostname", "card: /etc/hostname: is not a card that this release exported"),
        ("quantise: fp8", "quantise: "),
        ("- nodes", "knobs: "),
    ],
)
def test_odd_knobs_are_refused_before_anything_is_written(
    knob: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "knobs.yaml").write_text(f"{knob}\n")
    assert main(["k8s", "render", *SMALL, "--knobs", str(tmp_path / "knobs.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {words}")
    assert not (tmp_path / "out").exists()


DEEP = "[" * 100_000 + "]" * 100_000
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"a: {DEEP}", "line 1: is nested deeper than 64 levels"),
        (BOMB, "has more than 1,000,000 values, with those that it repeats by reference"),
        ("metadata: &m {labels: *m}", "line 1: *m names nothing, or something that it is part of"),
        ("? [a]\n: b\n", "line 1: a key must be a text"),
        ("metadata: {<<: {name: a}}", "line 1: a key must be a text, and << is not taken"),
        ("kind: List\nitems: [1, x]\n", "document 1 lists something that is no object"),
        ("kind: !!python/object/apply:os.system [id]", "not YAML: could not determine a constructor"),
        ("a: \udcff\udcfe", "{file} is no UTF-8 from byte 3 on"),
        ("- 1", "document 1 is a list, not an object"),
        ("", "there are no objects"),
    ],
    ids=lambda text: text[:20],
)
def test_files_that_are_no_manifests(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert main(["k8s", "check", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: dir: {words.format(file=file)}")


def test_only_files_of_a_folder_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    assert main(["k8s", "check", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: dir: {tmp_path} has no YAML files\n"


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "check", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"error: dir: {tmp_path / 'none'} is neither a folder nor a file\n"


def test_render_says_that_nothing_fills_the_volume_of_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["k8s", "render", "--model", "wan2.7-27b", "--out", str(tmp_path / "out")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("needs: wan2.7-27b on the volume weights") and last.endswith(
        "weights_from in the file of knobs"
    )

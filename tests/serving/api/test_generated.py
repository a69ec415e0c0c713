"""The committed code is what the protos give, and the protos are well formed."""

from __future__ import annotations

import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api import annotations_pb2, client_pb2, field_behavior_pb2, resource_pb2
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pb2
from google.rpc import status_pb2

from zoetrope.serving.api import generate
from zoetrope.serving.api.zoetrope.video.v1 import account_pb2, engines_pb2, media_pb2, video_pb2


def test_generated_code_is_current(tmp_path: Path) -> None:
    written = generate.generate(tmp_path)
    package = Path("zoetrope/video/v1")
    endings = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
    assert written == sorted(
        package / (name + end) for name in ("account", "engines", "media", "video") for end in endings
    )
    for path in written:
        assert (generate.HERE / path).read_text() == (tmp_path / path).read_text(), (
            f"{path} is not current, run python -m zoetrope.serving.api.generate"
        )


def test_generating_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        paths = generate.generate(tmp_path / name)
    for path in paths:
        assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "second" / path).read_bytes()


def test_names_are_canonical() -> None:
    assert video_pb2.DESCRIPTOR.name == "zoetrope/video/v1/video.proto"
    assert video_pb2.DESCRIPTOR.package == "zoetrope.video.v1"
    video = video_pb2.Video(name="operations/x")
    assert pickle.loads(pickle.dumps(video)) == video  # found under the project's import path


def test_google_s_protos_are_as_google_ships_them() -> None:
    """They lie beside ours, so that protoc and buf need nothing else."""
    shipped = Path(status_pb2.__file__).parents[1]  # `google` is a namespace that several distributions share
    names = sorted(path.relative_to(generate.HERE / "google") for path in (generate.HERE / "google").rglob("*.proto"))
    assert [str(name) for name in names] == [
        "api/annotations.proto",
        "api/client.proto",
        "api/field_behavior.proto",
        "api/http.proto",
        "api/launch_stage.proto",
        "api/resource.proto",
        "longrunning/operations.proto",
        "rpc/status.proto",
    ]
    for name in names:  # the long-running one has another name there
        theirs = shipped / str(name).replace("operations.proto", "operations_proto.proto")
        assert (generate.HERE / "google" / name).read_text() == theirs.read_text(), name


@pytest.mark.integration
def test_plain_protoc(tmp_path: Path) -> None:
    """As somebody who has grpcio-tools and the package, or a checkout of ours beside one of googleapis."""
    package, googleapis = tmp_path / "ours", tmp_path / "googleapis"
    shutil.copytree(generate.HERE / "zoetrope", package / "zoetrope", ignore=shutil.ignore_patterns("*.py*"))
    shutil.copytree(generate.HERE / "google", googleapis / "google")
    for includes in ((f"-I{generate.HERE}",), (f"-I{package}", f"-I{googleapis}")):
        out = tmp_path / "out.binpb"
        protoc = [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            *includes,
            "--include_imports",
            f"--descriptor_set_out={out}",
        ]
        done = subprocess.run([*protoc, *generate.PROTOS], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        files = {file.name for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file}
        assert {*generate.PROTOS, "google/longrunning/operations.proto"} < files
        out.unlink()


METHODS = [
    method
    for file in (video_pb2, media_pb2, account_pb2, engines_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_annotations_of_methods(method: Any) -> None:
    options = method.GetOptions()
    http = options.Extensions[annotations_pb2.http]
    if method.client_streaming:  # JSON has no such thing
        assert http.WhichOneof("pattern") is None
        return
    path = getattr(http, http.WhichOneof("pattern"))
    assert path.startswith("/video/v1/")
    fields = method.input_type.fields_by_name
    assert re.findall(r"\{(\w+)=", path) == [name for name in ("name",) if name in fields]
    assert http.body in {"", "*", *fields}
    signatures = options.Extensions[client_pb2.method_signature]
    assert signatures, "generated clients have no short form of it"
    assert {name for name in signatures[0].split(",") if name} <= set(fields)
    if method.output_type.full_name == "google.longrunning.Operation":
        info = options.Extensions[operations_pb2.operation_info]
        assert (info.response_type, info.metadata_type) == ("Video", "VideoMetadata")
    if method.name.startswith("List"):
        assert {"page_size", "page_token"} <= set(fields)
        assert "next_page_token" in method.output_type.fields_by_name
    if method.name.startswith("Delete"):
        assert method.output_type.full_name == "google.protobuf.Empty"


def inputs() -> Iterator[Any]:
    """All messages of ours that requests are made of."""
    seen, left = set(), [method.input_type for method in METHODS]
    while left:
        message = left.pop()
        if message.full_name not in seen and message.file.package == "zoetrope.video.v1":
            seen.add(message.full_name)
            left += [field.message_type for field in message.fields if field.message_type is not None]
            if not message.GetOptions().map_entry:
                yield message


def test_annotations_of_fields() -> None:
    """Every field says what it is, but for those of a oneof, of which one is given."""
    found = list(inputs())
    assert {"CreateVideoRequest", "TextToVideo", "Webhook", "VideoChanges"} < {message.name for message in found}
    for message in [*found, video_pb2.Video.DESCRIPTOR, media_pb2.MediaFile.DESCRIPTOR]:
        for field in message.fields:
            alone = field.containing_oneof is None or field.containing_oneof.name == f"_{field.name}"
            behaviour = list(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])
            assert len(behaviour) == alone, f"{message.name}.{field.name}"
    for message, pattern in ((video_pb2.Video, "videos/{video}"), (media_pb2.MediaFile, "media/{media_file}")):
        assert list(message.DESCRIPTOR.GetOptions().Extensions[resource_pb2.resource].pattern) == [pattern]


@pytest.mark.integration
def test_buf_lint_in_place() -> None:
    assert lint(generate.HERE) == (0, "")


@pytest.mark.integration
def test_buf_lint_complains(tmp_path: Path) -> None:
    shutil.copytree(generate.HERE, tmp_path, dirs_exist_ok=True)
    with (tmp_path / generate.PROTOS[0]).open("a") as file:
        file.write("message Bare { string BadName = 1; }\n")
    status, output = lint(tmp_path)
    assert status != 0
    assert "BadName" in output
    assert "comment" in output


def lint(workspace: Path) -> tuple[int, str]:
    """Exit status and output of buf, which must need nothing but the workspace."""
    buf = Path(sys.executable).with_name("buf")
    with tempfile.TemporaryDirectory() as home:
        offline = {"HOME": home, "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        done = subprocess.run([buf, "lint"], cwd=workspace, env=offline, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr

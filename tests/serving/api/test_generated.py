"""The committed code is what the protos give, and the protos are well formed."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

from serving.api import generate
from serving.api.zoetrope.video.v1 import video_pb2


def test_generated_code_is_current(tmp_path: Path) -> None:
    written = generate.generate(tmp_path)
    package = Path("zoetrope/video/v1")
    endings = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
    assert written == sorted(package / (name + end) for name in ("account", "media", "video") for end in endings)
    for path in written:
        assert (generate.HERE / path).read_text() == (tmp_path / path).read_text(), (
            f"{path} is not current, run python -m serving.api.generate"
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


def test_buf_lint(tmp_path: Path) -> None:
    generate.copy_sources(tmp_path)
    shutil.copy(generate.HERE / "buf.yaml", tmp_path)
    assert lint(tmp_path) == (0, "")


def test_buf_lint_complains(tmp_path: Path) -> None:
    generate.copy_sources(tmp_path)
    shutil.copy(generate.HERE / "buf.yaml", tmp_path)
    with (tmp_path / generate.PROTOS[0]).open("a") as file:
        file.write("message Bare { string BadName = 1; }\n")
    status, output = lint(tmp_path)
    assert status != 0
    assert "BadName" in output
    assert "comment" in output


def lint(workspace: Path) -> tuple[int, str]:
    """Exit status and output of buf, which must need nothing but the workspace."""
    buf = Path(sys.executable).with_name("buf")
    offline = {"HOME": str(workspace), "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = subprocess.run([buf, "lint"], cwd=workspace, env=offline, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr

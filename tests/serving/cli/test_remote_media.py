"""Commands that send files, go on from videos, or leave a job to the service; nano's limits, and no engine."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serving.cli.test_remote import run_while
from tests.serving.gateway.harness import Service, running_service, until
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.cli import main
from zoetrope.serving.cli.service import Addresses
from zoetrope.serving.jobs.job import Job, JobFilter, Result, State
from zoetrope.serving.media import VideoWriter


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("gateway"), model="nano") as service:
        yield service


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """picture.png, other.png and clip.mp4."""
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(1)
    for name in ("picture", "other"):
        Image.fromarray(rng.integers(0, 255, (90, 160, 3), np.uint8)).save(folder / f"{name}.png")
    with VideoWriter(folder / "clip.mp4", 160, 90, 12, "mp4", {}) as writer:
        writer.write(np.repeat(rng.integers(0, 255, (30, 9, 16, 3), np.uint8), 10, axis=1).repeat(10, axis=2))
    return folder


def queued(service: Service) -> Job:
    return until(lambda: service.store.list("", page_size=2, where=JobFilter(states=(State.QUEUED,))))[0]


def succeed(service: Service, clip: Path) -> Job:
    """The router's part: the job that waits makes ``clip``."""
    queued(service)
    (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, ("nano",))
    video = service.artifacts.put_file(f"jobs/{job.id}/{job.lease_epoch}/video.mp4", clip, "video/mp4")
    result = Result(video, None, frames=30, width=160, height=90, fps=12)
    assert service.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)
    return job


OPTIONS: dict[str, list[str]] = {
    "text_to_video": [],
    "image_to_video": ["--image", "picture.png", "--loop"],
    "first_last_frame": ["--image", "picture.png", "--last-image", "other.png"],
    "grid_to_video": ["--panel", "picture.png"] * 9,
    "reference_to_video": ["--reference", "picture.png", "--reference", "clip.mp4", "--image", "other.png"],
    "edit_video": ["--video", "clip.mp4", "--reference", "picture.png"],
}


@pytest.mark.parametrize("private", [False, True], ids=["server", "private"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_every_kind_of_task(
    kind: str,
    private: bool,
    service: Service,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a service that others use, and with one that stands in for a private one."""
    monkeypatch.chdir(files)
    if private:
        monkeypatch.delenv("ZOETROPE_SERVER")
        monkeypatch.setenv("ZOETROPE_API_KEY", "zk_of_another_service")

        class Private:
            def wait_ready(self) -> Addresses:
                return Addresses(service.target, service.http)

        @contextlib.contextmanager
        def start(command: list[str], log: Path) -> Iterator[Private]:
            yield Private()

        monkeypatch.setattr("zoetrope.serving.cli.service.private_service", start)
    jobs: list[Job] = []
    out = tmp_path / "out.mp4"
    command = ["generate", "make it blue", *OPTIONS[kind], "--steps", "2", "--out", str(out)]
    assert run_while(command, lambda: jobs.append(succeed(service, files / "clip.mp4"))) == 0
    assert jobs[0].spec["task"]["kind"] == kind
    captured = capsys.readouterr()
    assert captured.out.startswith(f"saved {out} size=160x90 ")
    assert out.read_bytes() == (files / "clip.mp4").read_bytes()
    uploads = [line for line in captured.err.splitlines() if line.startswith("uploaded ")]
    assert len(uploads) == len({name for name in OPTIONS[kind] if not name.startswith("--")})
    if kind == "reference_to_video":
        assert uploads == ["uploaded reference 1", "uploaded reference 2", "uploaded image"]


def test_options_of_a_job_and_detach(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--priority", "7", "--label", "team=a b", "--label", "x=y=z", "--deadline", "600"]
    options += ["--webhook", "http://hooks.example/x", "--detach"]
    assert main(["generate", "a red circle", *options]) == 0
    name = capsys.readouterr().out.strip()
    job = service.job(name)
    assert (job.priority, job.labels) == (7, {"team": "a b", "x": "y=z"})
    assert job.deadline_at is not None
    assert job.deadline_at - job.created_at == pytest.approx(600, abs=30)
    assert job.webhook is not None
    assert job.webhook.url == "http://hooks.example/x"
    assert main(["jobs", "--filter", 'labels.team="a b"']) == 0
    assert name in capsys.readouterr().out
    assert main(["jobs", "--filter", "labels.team=other"]) == 0
    assert name not in capsys.readouterr().out
    assert main(["jobs", "--filter", "colour=red"]) == 2
    assert capsys.readouterr().err.startswith("error: filter: 'colour=red' is not understood")
    assert main(["events", name]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["time", "from", "to", "by", "attempt", "note"]
    assert line.split()[2:4] == ["queued", "client"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--priority", "11"], "priority: 11 must be from 0 to 9"),
        (["--label", "team"], "label: 'team' is not KEY=VALUE"),
        (["--label", "a b=c"], "label: the key 'a b' does not match"),
        (["--deadline", "0"], "deadline: 0 must be above 0"),
        (["--deadline", "nan"], "deadline: nan must be above 0"),
        (["--webhook", "ftp://x"], "webhook: 'ftp://x' must be an http or https URL"),
        (["--image", "nowhere.png"], "image: 'nowhere.png' is not a readable file"),
        (["--image", "media/med_none"], "image: 'media/med_none' is not a known file"),
        (["--reference", "picture.png", "--reference", "text.txt"], "reference 2: "),
        (["--image", "clip.mp4"], "image: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(
    arguments: list[str],
    line: str,
    service: Service,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    (files / "text.txt").write_text("no picture")
    assert main(["generate", "x", *arguments, "--detach"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {line}")
    assert service.store.list("", page_size=2, where=JobFilter(states=(State.QUEUED,))) == []


@pytest.mark.parametrize("option", [["--priority", "1"], ["--label", "a=b"], ["--webhook", "http://x/"], ["--detach"]])
@pytest.mark.parametrize("local", [True, False], ids=["local", "private"])
def test_options_of_a_service_need_one(
    option: list[str], local: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ZOETROPE_SERVER", raising=False)
    assert main(["generate", "x", *option, *(["--local"] if local else [])]) == 2
    assert capsys.readouterr().err == f"error: {option[0].removeprefix('--')}: needs a service, give --server\n"


def test_extend(service: Service, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = service.client.create(prompt="a red circle", frames=16, steps=2)
    succeed(service, files / "clip.mp4")
    short = source.removeprefix("operations/")
    assert main(["extend", short, "then it falls", "--frames", "9", "--label", "part=2", "--seed", "3"]) == 0
    name = capsys.readouterr().out.strip()
    job = service.job(name)
    assert (job.spec["task"]["kind"], job.spec["task"]["prompt"]) == ("image_to_video", "then it falls")
    assert (job.spec["seed"], job.labels) == (3, {"part": "2"})
    service.empty_queue()
    out = tmp_path / "more.mp4"
    assert run_while(["extend", short, "--out", str(out)], lambda: succeed(service, files / "clip.mp4")) == 0
    assert capsys.readouterr().out == f"saved {out}\n"
    assert out.read_bytes() == (files / "clip.mp4").read_bytes()
    for arguments, line in (
        ([name], f"{name} has no file: its state is CANCELLED"),
        ([short, "--out", "x.mkv"], "out: 'x.mkv' does not end in .mp4, the file is video/mp4"),
        (["vid_none"], "name: 'operations/vid_none' is not a known operation"),
        ([short, "x", "--steps", "0"], "steps: 0 must be from 1 to 1000"),
    ):
        assert main(["extend", *arguments]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {line}")


def test_media(
    service: Service,
    files: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(files)
    shutil.copy(files / "picture.png", tmp_path / "mine.png")
    assert main(["media", "upload", str(tmp_path / "mine.png"), "clip.mp4"]) == 0
    captured = capsys.readouterr()
    picture, clip = captured.out.split()
    assert captured.err.splitlines() == [f"uploaded {tmp_path / 'mine.png'}", "uploaded clip.mp4"]
    assert main(["media", "list", "--limit", "2"]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["name", "kind", "size", "length"]
    assert first.split()[:5] == [clip, "clip", "160x90", "2.5", "s"]
    assert second.split()[:3] == [picture, "image", "160x90"]
    assert main(["generate", "x", "--image", picture, "--detach"]) == 0
    name = capsys.readouterr().out.strip()
    assert service.job(name).media == (picture.removeprefix("media/"),)
    assert main(["media", "delete", picture]) == 2
    assert "is used by a job that has not ended" in capsys.readouterr().err
    service.empty_queue()
    assert main(["media", "delete", picture, clip.removeprefix("media/")]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{picture} deleted", f"{clip} deleted"]
    bad: list[tuple[list[str], str]] = [
        (["delete", picture], "name: "),
        (["upload", "none.png"], "file: 'none.png' is not a readable file"),
        (["upload", "clip.mp4", "picture.png", "--resume", clip], "resume: takes one file, 2 are given"),
        (["upload", "clip.mp4", "--resume", "med_none"], "clip.mp4: name: "),
    ]
    (files / "text.txt").write_text("no picture")
    bad.append((["upload", "text.txt"], "text.txt: "))
    for arguments, line in bad:
        assert main(["media", *arguments]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {line}")


def test_full_queue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_service(tmp_path, max_queued=1) as service:
        command = ["generate", "x", "--server", service.target, "--detach"]
        assert main(command) == 0
        capsys.readouterr()
        assert main(command) == 1
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: 1 jobs are queued, which is the limit")

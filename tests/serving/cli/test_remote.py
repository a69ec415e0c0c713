"""The commands that talk to a service, against a gateway whose router is played by the test."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.serving.gateway.harness import ROOT, Service, until
from zoetrope.model.families.wan import NEGATIVE_PROMPT
from zoetrope.serving.cli import main
from zoetrope.serving.jobs.job import Job, JobFilter, Stage, State


def run_while(command: list[str], act: Callable[[], object]) -> int:
    """Run a command in a thread while the router's part is played; its exit code."""
    with ThreadPoolExecutor(1) as pool:
        running: Future[int] = pool.submit(main, command)
        act()
        return running.result(timeout=30)


def queued(service: Service) -> Job:
    """The one job that waits, once it is there."""
    return until(lambda: service.store.list("", page_size=2, where=JobFilter(states=(State.QUEUED,))))[0]


def test_a_dry_run_prints_the_price_and_makes_nothing(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "a red circle", "--size", "832x480", "--frames", "33", "--steps", "3", "--dry-run"]
    assert main([*command, "--out", str(tmp_path / "clip.mp4")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("valid model=tiny size=832x480 frames=33 fps=16 steps=3 gpu_seconds=")
    assert out.endswith(" (not measured yet)\n"), "no engine has taken a step"
    assert not service.store.list("", page_size=1, where=JobFilter())
    assert not (tmp_path / "clip.mp4").exists()
    assert main([*command, "--steps", "0"]) == 2
    assert "steps" in capsys.readouterr().err


def test_generate(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, latents = tmp_path / "clip.mp4", tmp_path / "clip.safetensors"
    made: list[Job] = []

    def route() -> None:
        job = service.claim(queued(service).id)
        made.append(job)
        for step in range(1, job.steps + 1):
            service.progress(job, Stage.DENOISING, step, eta_seconds=1.0)
        service.succeed(job, b"a video", tmp_path, b"some latents")

    command = ["generate", "a red circle", "--out", str(out), "--latents-out", str(latents)]
    command += ["--size", "832x480", "--frames", "33", "--steps", "3", "--seed", "7", "--guidance", "2.5"]
    assert run_while([*command, "--negative", "blur"], route) == 0
    spec = made[0].spec
    task = {"kind": "text_to_video", "prompt": "a red circle", "negative_prompt": "blur"}
    assert (spec["task"], spec["container"]) == (task, "mp4")
    assert (spec["frames"], spec["steps"], spec["seed"], spec["guidance"]) == (33, 3, 7, 2.5)
    assert (out.read_bytes(), latents.read_bytes()) == (b"a video", b"some latents")
    captured = capsys.readouterr()
    assert captured.out == (
        f"saved {out} size=832x480 denoised_at=832x480 frames=33 fps=16 steps=3 seed=7 model=tiny latents={latents}\n"
    )
    assert "error" not in captured.err
    assert captured.err.splitlines()[0] == "submitting"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["x", "--duration", "nan"], "duration: nan must be above 0"),
        (["x", "--frames", "0"], "frames: 0 must be from 1 to 81 for tiny"),
        ([""], "prompt: is empty"),
        (["x", "--negative", "b\x00"], "negative: has the control character U+0000"),
        (["x", "--seed", "-2"], "seed: -2 must be from 0 to 9223372036854775807"),
        (["x", "--seed", "9223372036854775808"], "seed: '9223372036854775808' is not a valid value"),
        (["x", "--flow-shift", "-1"], "flow-shift: -1.0 must be from 0.01"),
        (["x", "--fit", "stretch"], "fit: 'stretch' is not one of cover, contain"),
        (["x", "--out", "x.png", "--frames", "9"], "out: png holds one frame, but 9 are asked for"),
        (["x", "--steps", "99999999999"], "steps: "),
        (["x", "--size", "121x60"], "size: 121x60 has an odd side"),
        (["x", "--ratio", "1:2", "--fps", "0"], "fps: 0 must be from 1 to 60; ratio: '1:2' is not one of"),
        (["x", "--model", "nobody"], "model: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused_request(
    arguments: list[str], line: str, service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The service's own check of the fields, told by the names of the options."""
    assert main(["generate", "--out", str(tmp_path / "x.mp4"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith(f"error: {line}")
    assert service.store.list("", page_size=10, where=JobFilter(states=(State.QUEUED,))) == []


def test_failed_job(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def route() -> None:
        job = service.claim(queued(service).id)
        service.store.finish(
            job.id, job.lease_epoch, State.FAILED, error_code="INTERNAL", error_message="the engine gave up"
        )

    out = tmp_path / "x.mp4"
    assert run_while(["generate", "x", "--size", "832x480", "--out", str(out)], route) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(" failed: the engine gave up")
    assert not out.exists()


def test_interrupt_leaves_the_job(service: Service, tmp_path: Path) -> None:
    command = ["generate", "x", "--size", "832x480", "--out", str(tmp_path / "x.mp4"), "--server", service.target]
    process = subprocess.Popen(
        [sys.executable, "-m", "zoetrope.serving.cli", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = next(line for line in process.stderr if line.startswith("queued"))
    job = queued(service)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130, line
    assert (out, err) == (
        "",
        f"error: interrupted; {job.id} is still running, see zoetrope watch, download and cancel\n",
    )
    assert service.job(job.id).state is State.QUEUED


def test_watch(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = service.make(b"data", tmp_path)
    short = name.removeprefix("operations/")
    for given in (name, short):
        assert main(["watch", given]) == 0
        captured = capsys.readouterr()
        assert captured.out == f"{short} succeeded size=832x480 frames=33 fps=16\n"
        assert captured.err.startswith("done ")


def test_quiet(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = service.make(b"data", tmp_path)
    assert main(["watch", name, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and " succeeded size=832x480 " in captured.out


def test_cancel(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = service.client.create(prompt="x", size="832x480").removeprefix("operations/")
    assert main(["cancel", name]) == 0
    assert capsys.readouterr().out == f"{name} cancelled\n"
    assert main(["watch", name]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {name} cancelled: ")
    done = service.make(b"data", tmp_path).removeprefix("operations/")
    assert main(["cancel", done]) == 0
    assert capsys.readouterr().out == f"{done} had already ended: succeeded\n"
    running = service.client.create(prompt="x", size="832x480").removeprefix("operations/")
    service.claim(running)
    assert main(["cancel", running]) == 0
    assert capsys.readouterr().out == f"{running} is being cancelled\n"


def test_jobs(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = service.make(b"data", tmp_path, steps=5).removeprefix("operations/")
    prompt = "a red circle\nthat moves " + "far " * 200
    waiting = service.client.create(prompt=prompt, size="832x480", steps=7).removeprefix("operations/")
    assert main(["jobs", "--limit", "2"]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["job", "state", "step", "task", "prompt", "model", "created", "GPU-s", "note"]
    assert first.split()[:4] == [waiting, "queued", "0/7", "text_to_video"]
    assert "a red circle that moves far far" in first and "..." in first
    assert first.rstrip().endswith("0 ahead, no engine serves tiny now")
    assert second.split()[:2] == [done, "succeeded"]

    assert main(["jobs", "--limit", "2", "--quiet"]) == 0
    assert capsys.readouterr().out.split() == [waiting, done]
    assert main(["jobs", "--limit", "2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [job["name"] for job in shown] == [f"operations/{waiting}", f"operations/{done}"]
    assert (shown[0]["task"], shown[0]["prompt"]) == ("text_to_video", prompt[:500])
    assert shown[0]["create_time"].endswith("Z") and shown[1]["video"]["frames"] == 33
    assert main(["jobs", "--json", "--quiet"]) == 2
    assert capsys.readouterr().err == "error: quiet: cannot be used together with --json\n"


def test_jobs_in_80_columns(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = service.client.create(prompt="a red circle that moves far", size="832x480").removeprefix("operations/")
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["jobs", "--limit", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    assert {name, "queued", "text_to_video", "ahead,", "engine"} <= set(words)


def test_events(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = service.make(b"data", tmp_path)
    assert main(["events", name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown[0]["to_state"], shown[-1]["to_state"]) == ("queued", "succeeded")
    assert shown[0]["time"].endswith("Z")


def test_download(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = service.make(b"data", tmp_path, b"latents", keep_latents=True).removeprefix("operations/")
    folder = tmp_path / "new"
    out, latents = folder / "x.mp4", folder / "x.safetensors"
    assert main(["download", name, "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"error: out: the folder '{folder}' does not exist; make it first\n"
    folder.mkdir()
    assert main(["download", name, "--out", str(out), "--latents-out", str(latents)]) == 0
    assert capsys.readouterr().out == f"saved {out} latents={latents}\n"
    assert (out.read_bytes(), latents.read_bytes()) == (b"data", b"latents")
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.mp4", "x.safetensors"]
    assert main(["download", name, "--out", str(tmp_path / "x.mkv")]) == 2
    assert capsys.readouterr().err.endswith("does not end in .mp4, the file is video/mp4\n")
    assert main(["download", name, "--out", str(tmp_path / "X.MP4")]) == 0
    assert (tmp_path / "X.MP4").read_bytes() == b"data"


def test_download_before_the_end(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = service.client.create(prompt="x", size="832x480").removeprefix("operations/")
    assert main(["download", name, "--out", str(tmp_path / "x.mp4")]) == 2
    assert capsys.readouterr().err == f"error: name: {name} has no file; its state is queued\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["watch"], ["cancel"], ["download", "--out", "x.mp4"]], ids=lambda c: c[0])
def test_unknown_job(command: list[str], service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "vid_none"]) == 2
    assert capsys.readouterr().err.startswith("error: name: 'operations/vid_none' is not a known operation")


def test_models(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    header, row, *more = capsys.readouterr().out.splitlines()
    assert row.split()[:4] == ["tiny", "no", "text_to_video", "480p"]
    assert "multiples of 16" in row
    assert "flow shift" in header and "negative prompt" in header and "other names" not in header
    shown = " ".join([row, *more])
    assert "3 (scheduler_config.json; Wan's own code takes 5)" in shown
    assert NEGATIVE_PROMPT[:21] + "..." in shown.replace(" ", "")


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2)])
def test_a_missing_folder_is_asked_about_at_a_terminal(
    answer: str, code: int, service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the service is asked; a pseudo-terminal stands for the person's."""
    name = service.make(b"data", tmp_path)
    out = tmp_path / "new" / "below" / "x.mp4"
    controller, terminal = pty.openpty()
    try:
        command = [sys.executable, "-m", "zoetrope.serving.cli", "download", name, "--out", str(out)]
        os.write(controller, answer.encode())
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=terminal,
            text=True,
            check=False,
            timeout=60,
        )
        said = os.read(controller, 4_096).decode()
    finally:
        os.close(controller)
        os.close(terminal)
    assert f"the folder '{out.parent}' does not exist. Make it?" in said
    assert (done.returncode, out.exists(), out.parent.exists()) == (code, code == 0, code == 0)

"""Clients that generators make of what we ship, by the commands of docs/apis, each with calls of a gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.node.run import run_node
from tests.serving.gateway.harness import Collector, Service, until
from zoetrope.serving.api import generate
from zoetrope.serving.jobs.job import Job, JobFilter, State

GENERATORS = Path(sys.prefix) / "generators"  # the Makefile installs them there, for they want older packages than ours

GAPIC = """
import json, sys
import grpc
from acme.video_v1 import VideoServiceClient, TextToVideo
from acme.video_v1.services.video_service.transports import VideoServiceGrpcTransport

channel = grpc.insecure_channel(sys.argv[1])
client = VideoServiceClient(transport=VideoServiceGrpcTransport(channel=channel))
operation = client.create_video(text_to_video=TextToVideo(prompt="a red circle"))
made = operation.result(timeout=60)
video = client.get_video(name=made.name)
events = [event.to_state for event in client.list_video_events(request={"name": video.name, "page_size": 1})]
data = b"".join(chunk.data for chunk in client.download_video(name=video.name))
models = [model.name for model in client.list_models()]
print(json.dumps([operation.operation.name, video.name, events, data.decode(), models]))
"""

OPENAPI = """
import json, sys
from client import Client
from client.api.openai import get_v1_videos
from client.api.replicate import get_v1_predictions_prediction_id_output_filename as output
from client.api.replicate import post_v1_models_owner_name_predictions as create
from client.api.replicate import post_v1_predictions_prediction_id_cancel as cancel
from client.models import PredictionRequest, TextInput

client = Client(base_url=sys.argv[1])
body = PredictionRequest(TextInput(prompt="x"))
made = create.sync("wan-video", "wan-2.7-t2v", client=client, body=body, prefer="wait=60")
file = output.sync(made.id, "video.mp4", client=client)
listed = get_v1_videos.sync(client=client, limit="1")
again = create.sync("wan-video", "wan-2.7-t2v", client=client, body=body)
refused = create.sync("wan-video", "wan-2.7-t2v", client=client, body=PredictionRequest(TextInput(prompt="")))
print(json.dumps([
    made.id, made.status.value, file.payload.read().decode(), [video.id for video in listed.data],
    cancel.sync(again.id, client=client).status.value, refused.status, refused.detail,
]))
"""


def run(command: list[str | Path], *, at: Path, **env: str) -> str:
    """Run a program and return all that it says; it fails if the program does."""
    if not GENERATORS.is_dir():
        assert not os.environ.get("CI"), f"{GENERATORS} has to be installed, see the Makefile"
        pytest.skip("needs generators of clients: run `make .venv/.installed-test` again")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=at,
        env={**os.environ, "PATH": path, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def while_it_runs(service: Service, scratch: Path, calls: Callable[[], Any]) -> tuple[Job, Any]:
    """Make the calls, and meanwhile the video of the first job that they create."""

    def queued() -> Job | None:
        return next(iter(service.store.list("", page_size=1, where=JobFilter(states=(State.QUEUED,)))), None)

    running = Collector(calls() for _ in range(1))
    job = until(lambda: running.ended or queued(), 60)
    if not isinstance(job, Job):
        running.join()  # raises what was wrong, or skips
    assert isinstance(job, Job)
    service.succeed(service.claim(f"operations/{job.id}"), b"video", scratch)
    (said,) = running.join()
    return job, said


@pytest.mark.long
def test_gapic(service: Service, tmp_path: Path) -> None:
    plugin = GENERATORS / "bin" / "protoc-gen-python_gapic"
    options = "transport=grpc,python-gapic-namespace=acme,python-gapic-name=video"
    protoc: list[str | Path] = [sys.executable, "-m", "grpc_tools.protoc", f"-I{generate.HERE}"]
    out = [f"--plugin={plugin}", f"--python_gapic_out={tmp_path}", f"--python_gapic_opt={options}"]
    run([*protoc, *out, *generate.PROTOS], at=tmp_path, PYTHONPATH=str(GENERATORS))
    calls: list[str | Path] = [sys.executable, "-c", GAPIC, service.target]
    job, said = while_it_runs(service, tmp_path, lambda: run(calls, at=tmp_path, PYTHONPATH=str(tmp_path)))
    operation, video, events, data, models = json.loads(said.splitlines()[-1])
    assert (operation, video) == (f"operations/{job.id}", f"videos/{job.id}")
    assert (events, data, models) == (["queued", "running", "succeeded"], "video", ["tiny"])


def test_openapi_python_client(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "client"
    command: list[str | Path] = [sys.executable, "-m", "openapi_python_client", "generate"]
    url = f"{service.http}/openapi.json"
    said = run(
        [*command, "--url", url, "--output-path", out, "--meta", "none"], at=tmp_path, PYTHONPATH=str(GENERATORS)
    )
    assert "WARNING" not in said, said
    paths = httpx.get(url).json()["paths"]
    made = {path.stem for path in out.glob("api/*/*.py") if path.name != "__init__.py"}
    assert len(made) == sum(map(len, paths.values())) > 30
    calls: list[str | Path] = [sys.executable, "-c", OPENAPI, service.http]
    job, answer = while_it_runs(service, tmp_path, lambda: run(calls, at=tmp_path, PYTHONPATH=str(tmp_path)))
    assert json.loads(answer.splitlines()[-1]) == [
        job.id, "succeeded", "video", [job.id], "canceled", 422, "input.prompt: is empty"
    ]  # fmt: skip


@pytest.mark.long
def test_openapi_typescript(service: Service, tmp_path: Path) -> None:
    job, said = while_it_runs(service, tmp_path, lambda: run_node("openapi", URL=service.http))
    assert said["operations"] == sum(map(len, httpx.get(f"{service.http}/openapi.json").json()["paths"].values()))
    assert said["typed"] == []
    assert (said["made"], said["status"], said["file"]) == (job.id, "succeeded", "video")
    assert said["refused"]["status"] == 422

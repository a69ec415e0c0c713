"""The whole service as a user runs it: `zoetrope serve` with nano, killed in every way."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.serving.gateway.harness import until
from tests.serving.whole.service import Service, command_line
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families.nano import NANO_CARD
from zoetrope.model.pipeline import LocalPipeline
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import parse_request
from zoetrope.serving.cli.service import ServiceProcess, serve_command
from zoetrope.serving.client import OperationStatus
from zoetrope.serving.config.addresses import is_loopback
from zoetrope.serving.media import probe, read_metadata

pytestmark = pytest.mark.timeout(400)

NANO = NANO_CARD["native_sizes"][0]
REQUEST = {
    "prompt": "a red circle moving right on a white background",
    "duration_seconds": 2.0,
    "steps": 8,
    "seed": 5,
    "keep_latents": True,
}
LONG = {**REQUEST, "steps": 400}
KILLED = {**REQUEST, "steps": 40}


@dataclass(frozen=True)
class Made:
    """A job of `REQUEST` that was watched from its start to its end."""

    name: str
    events: list[OperationStatus]


@pytest.fixture(scope="module")
def made(service: Service) -> Made:
    name = service.client.create(REQUEST)
    return Made(name, list(service.client.watch(name)))


@pytest.fixture(scope="module")
def undisturbed(service: Service, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The latents of `KILLED` where nothing is killed."""
    name = service.client.create(KILLED)
    assert service.client.wait(name, 150).state == "succeeded"
    return latents_of(service, name, tmp_path_factory.mktemp("undisturbed") / "latents.safetensors")


def test_only_the_gateway_can_be_reached_from_elsewhere_and_only_where_it_was_asked_to_listen(service: Service) -> None:
    asked = {service.addresses.grpc, service.addresses.http}
    listening = listening_sockets(service.family())
    assert asked <= listening
    assert {address for address in listening if not is_loopback(address, "")} == set()
    serving = {
        a for p in service.family() if "ServeReplica" in " ".join(command_line(p)) for a in listening_sockets([p])
    }
    replicas = [p for p in service.family() if "ServeReplica" in " ".join(command_line(p))]
    assert len(serving) == len(replicas), "one each, Ray's own, which asks for a token"


def listening_sockets(processes: list[psutil.Process]) -> set[str]:
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add(f"{connection.laddr.ip.removeprefix('::ffff:')}:{connection.laddr.port}")
    return found


def latents_of(service: Service, name: str, path: Path) -> torch.Tensor:
    service.client.download(name, path, artifact="latents")
    return load_file(path)["latents"]


@cache
def local_pipeline() -> LocalPipeline:
    return LocalPipeline.load(find_model("nano"))


def local_latents(**changes: object) -> list[torch.Tensor]:
    """Of each segment."""
    card = find_model("nano")
    fields = {k: v for k, v in {**REQUEST, **changes}.items() if k != "prompt"}
    request = parse_request({**fields, "task": {"kind": "text_to_video", "prompt": REQUEST["prompt"]}})
    return local_pipeline().run(resolve(request, card, 0))


def test_a_video_and_its_events(service: Service, made: Made, tmp_path: Path) -> None:
    events = made.events
    order = ["queued", "conditioning", "denoising", "decoding", "succeeded"]
    places = [(order.index(e.state), e.step) for e in events]
    assert places == sorted(places)
    assert [e.done for e in events] == [False] * (len(events) - 1) + [True]
    video = tmp_path / "video.mp4"
    service.client.download(made.name, video)
    info = probe(video)
    assert (info.codec, info.pixel_format, info.width, info.height) == ("h264", "yuv420p", 832, 480)
    assert (info.frames, info.fps, info.duration_seconds, info.faststart) == (16, 8.0, 2.0, True)
    told = events[-1].video
    assert told is not None
    assert (told.native_width, told.native_height, told.seed, told.size_bytes) == (*NANO, 5, video.stat().st_size)


def test_only_processes_that_compute_have_torch_and_their_threads_sleep_when_idle(service: Service) -> None:
    computing = set()
    for process in service.family():
        name = " ".join(command_line(process))
        if "libtorch_cpu" in Path(f"/proc/{process.pid}/maps").read_text():
            computing.add(name.split(".")[0].strip())  # an actor's name, padded with spaces
            environment = process.environ()
            assert environment["OMP_WAIT_POLICY"] == "PASSIVE" and environment["GOMP_SPINCOUNT"] == "20000", name
    replica = "ray::ServeReplica:zoetrope:"
    assert computing == {f"{replica}Conditioner", f"{replica}Decoder", f"{replica}Engine", "ray::RankProcess"}


def test_the_latents_are_those_of_the_local_pipeline(service: Service, made: Made, tmp_path: Path) -> None:
    assert torch.equal(latents_of(service, made.name, tmp_path / "latents.safetensors"), local_latents()[0])


@pytest.mark.parametrize("container", ["png", "webp", "jpg"])
@pytest.mark.long
def test_a_picture(service: Service, tmp_path: Path, container: str) -> None:
    """From the request to the file, and as the first frame of a video."""
    fields = {name: value for name, value in REQUEST.items() if name != "duration_seconds"}
    name = service.client.create({**fields, "container": container, "steps": 4})
    status = service.client.wait(name)
    assert status.video is not None and status.state == "succeeded"
    path = tmp_path / "picture"
    service.client.download(name, path)
    info = probe(path)
    assert (info.kind, info.width, info.height) == ("image", status.video.width, status.video.height)
    assert status.video.mime_type == f"image/{info.container}"
    assert read_metadata(path)["seed"] == str(status.video.seed)
    task = {"kind": "image_to_video", "prompt": "it moves right", "image": name}
    going_on = service.client.create({"task": task, "steps": 4, "frames": 9})
    assert service.client.wait(going_on).state == "succeeded"


def test_a_clip_beyond_one_segment_is_chained(service: Service, tmp_path: Path) -> None:
    longer = {"duration_seconds": 4.0, "steps": 4}
    name = service.client.create({**REQUEST, **longer})
    events = list(service.client.watch(name))
    assert events[-1].state == "succeeded"
    assert {e.steps for e in events} == {3 * 4}, "three segments of four steps"
    assert [e.step for e in events] == sorted(e.step for e in events)
    file = tmp_path / "latents.safetensors"
    service.client.download(name, file, artifact="latents")
    parts = load_file(file)
    expected = local_latents(**longer)
    assert [torch.equal(parts[k], e) for k, e in zip(sorted(parts), expected, strict=True)] == [True] * 3
    service.client.download(name, tmp_path / "video.mp4")
    assert probe(tmp_path / "video.mp4").frames == 32


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(service: Service) -> None:
    name = service.client.create({**REQUEST, "prompt": "a red circle moving right " * 20, "steps": 1})
    status = service.client.wait(name)
    assert status.state == "succeeded"
    assert status.warnings == ("prompt: only its first 32 tokens were read",)


def test_jobs_share_the_engine_and_their_results_do_not_change(service: Service, tmp_path: Path) -> None:
    names = [
        service.client.create({**REQUEST, "ratio": ratio, "steps": steps, "frames": frames, "duration_seconds": None})
        for ratio, steps, frames in (("16:9", 8, 16), ("1:1", 12, 9), ("9:16", 5, 1))
    ]
    assert [service.client.wait(name).state for name in names] == ["succeeded"] * 3
    shared = latents_of(service, names[0], tmp_path / "latents.safetensors")
    assert torch.allclose(shared, local_latents()[0], rtol=0, atol=1e-3)


def denoising(service: Service, name: str, steps: int = 2) -> OperationStatus:
    """Wait until the job has some steps behind it."""
    return next(e for e in service.client.watch(name) if e.step >= steps or e.done)


def test_cancel_takes_effect_within_a_step(service: Service) -> None:
    name = service.client.create(LONG)
    assert not denoising(service, name).done
    before = service.client.get(name).step
    service.client.cancel(name)
    at_request = service.client.get(name).step
    end = service.client.wait(name, 60)
    assert (end.state, end.error and end.error.code) == ("cancelled", "CANCELLED")
    assert before <= at_request <= end.step <= at_request + 1


def test_cancel_while_queued(service: Service) -> None:
    names = [service.client.create(LONG) for _ in range(36)]  # more than a router claims at a time
    waiting = until(lambda: [n for n in names if service.client.get(n).state == "queued"])[-1]
    assert service.client.get(waiting).queue_position >= 0
    service.client.cancel(waiting)
    status = service.client.get(waiting)
    assert (status.state, status.step, status.start_time) == ("cancelled", 0, None)
    for name in names:
        service.client.cancel(name)
    assert {service.client.wait(name, 60).state for name in names} == {"cancelled"}


def test_a_killed_gateway_loses_nothing(service: Service, tmp_path: Path) -> None:
    name = service.client.create(KILLED)
    assert not denoising(service, name).done
    gateway = service.find("zoetrope.serving.gateway.main")
    gateway.kill()
    end = list(service.client.watch(name))[-1]  # the client bears with the restart
    assert (end.state, end.attempt) == ("succeeded", 1)
    assert service.find("zoetrope.serving.gateway.main").pid != gateway.pid
    service.client.download(name, tmp_path / "video.mp4")
    assert probe(tmp_path / "video.mp4").frames == 16


@pytest.mark.parametrize(
    "victim",
    [
        "Engine",
        "Router",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("raylet/raylet", "ray::Rank", "Conditioner")),
    ],
)
def test_a_killed_worker_costs_steps_but_not_the_job(
    service: Service, undisturbed: torch.Tensor, tmp_path: Path, victim: str
) -> None:
    name = service.client.create(KILLED)
    assert not denoising(service, name).done
    service.find(victim).kill()
    assert service.client.wait(name, 150).state == "succeeded"
    assert torch.equal(undisturbed, latents_of(service, name, tmp_path / "latents.safetensors"))


def test_a_second_service_on_the_same_data_is_refused(service: Service, tmp_path: Path) -> None:
    second = ServiceProcess(serve_command("nano", service.directory / "data"), tmp_path / "log")
    with pytest.raises(Exception, match="in use by another service"):
        second.wait_ready(60)
    second.stop()


@pytest.mark.long
def test_the_whole_service_killed_in_mid_job(service: Service, tmp_path: Path) -> None:
    done = service.client.create(REQUEST)
    assert service.client.wait(done).state == "succeeded"
    running, queued = service.client.create({**LONG, "steps": 60}), service.client.create(REQUEST)
    assert not denoising(service, running).done
    killed = service.process
    os.kill(killed.pid, signal.SIGKILL)
    service.client.close()
    service.start()  # at once: what is left of the old one ends by itself and can change nothing
    killed.stop()
    assert service.client.wait(running, 120).state == "succeeded"
    assert service.client.get(running).attempt >= 2
    assert service.client.wait(queued, 120).state == "succeeded"
    for name in (done, running, queued):
        service.client.download(name, tmp_path / "video.mp4")
        assert probe(tmp_path / "video.mp4").frames == 16


@pytest.mark.long
def test_the_whole_service_stopped_in_mid_job(service: Service) -> None:
    """Which is no failure of the job's: nothing counts, and it goes on where it was."""
    running = service.client.create({**REQUEST, "steps": 200})
    before = denoising(service, running).step
    service.client.close()
    assert service.process.stop() == [], "nothing had to be killed"
    service.start()
    assert next(status.step for status in service.client.watch(running) if status.step) > before
    end = service.client.wait(running, 120)
    assert (end.state, end.attempt) == ("succeeded", 1)

"""The gateway as a process: health, probes, reflection, start and end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.serving.gateway.harness import (
    MODEL,
    ROOT,
    Collector,
    GatewayProcess,
    Service,
    engine,
    failure,
    running_service,
    until,
    write_checkpoint,
)
from zoetrope.serving.api.zoetrope.video.v1 import video_pb2
from zoetrope.serving.client import VideoClient
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.job import Stage
from zoetrope.serving.jobs.open import open_stores

RunGateway = Callable[[str], tuple[int, str, str]]  # settings -> exit status, stdout and the one line on stderr
VIDEO_SERVICE = "zoetrope.video.v1.VideoService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def get(service: Service, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://{service.gateway.bound['http']}{path}", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@contextlib.contextmanager
def engine_heartbeat(service: Service) -> Any:
    """As the router writes it."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.is_set():
            service.store.put_engine(engine(time.time()))
            stop.wait(0.2)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        service.store.remove_engine("engine-0")


def test_health_and_probes_follow_the_engines(service: Service) -> None:
    stub = health_pb2_grpc.HealthStub(service.channel)

    def status(name: str) -> Any:
        return stub.Check(health_pb2.HealthCheckRequest(service=name)).status

    watch = Collector(stub.Watch(health_pb2.HealthCheckRequest(service=VIDEO_SERVICE), timeout=60))
    assert status("") == SERVING
    until(lambda: status(VIDEO_SERVICE) == NOT_SERVING)
    told = {"name": MODEL, "weights": "", "fused_adapters": []}  # the folder has configurations alone
    assert get(service, "/healthz") == (200, {"status": "ok", "models": [told]})
    assert get(service, "/readyz") == (503, {"ready": False, "models": [MODEL], "engines": [], "out_of_service": []})
    with engine_heartbeat(service):
        until(lambda: status(VIDEO_SERVICE) == SERVING)
        row = {"id": "engine-0", "ranks": 1, "gang_epoch": 3}
        assert get(service, "/readyz") == (
            200,
            {"ready": True, "models": [MODEL], "engines": [row], "out_of_service": []},
        )
    until(lambda: status(VIDEO_SERVICE) == NOT_SERVING)
    assert get(service, "/readyz")[0] == 503
    # One of another model, and one that was not seen for more than 5 s, do not count.
    service.store.put_engine(engine(time.time(), model="other"))
    assert get(service, "/readyz")[0] == 503
    service.store.put_engine(engine(time.time() - 5.5))
    assert get(service, "/readyz")[0] == 503
    service.store.put_engine(engine(time.time() - 3.5))
    assert get(service, "/readyz")[0] == 200
    until(lambda: get(service, "/readyz")[0] == 503)  # it grows too old
    service.store.remove_engine("engine-0")
    assert [event.status for event in watch.seen[:3]] == [NOT_SERVING, SERVING, NOT_SERVING]
    with pytest.raises(grpc.RpcError) as caught:
        status("zoetrope.Nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_without_stubs(service: Service) -> None:
    database = ProtoReflectionDescriptorDatabase(service.channel)
    assert set(database.get_services()) == {
        VIDEO_SERVICE,
        "zoetrope.video.v1.MediaService",
        "zoetrope.video.v1.AccountService",
        "zoetrope.video.v1.EngineService",
        "google.longrunning.Operations",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool(database)

    def methods(name: str) -> set[str]:
        return {method.name for method in pool.FindServiceByName(name).methods}

    assert methods(VIDEO_SERVICE) == {
        "CreateVideo",
        "BatchCreateVideos",
        "ValidateVideo",
        "GetVideo",
        "ExtendVideo",
        "UpdateVideo",
        "ListVideoEvents",
        "ReplayWebhooks",
        "WatchVideo",
        "DownloadVideo",
        "ListModels",
    }
    assert methods("zoetrope.video.v1.MediaService") == {
        "CreateMedia",
        "WriteMedia",
        "GetMedia",
        "ListMedia",
        "DeleteMedia",
    }
    assert methods("zoetrope.video.v1.AccountService") == {"GetAccount", "GetWebhookSecret"}
    assert methods("zoetrope.video.v1.EngineService") == {"ListEngines"}
    assert methods("google.longrunning.Operations") == {
        "ListOperations",
        "GetOperation",
        "DeleteOperation",
        "CancelOperation",
        "WaitOperation",
    }
    request = pool.FindMessageTypeByName("zoetrope.video.v1.CreateVideoRequest")
    assert request.fields_by_name["text_to_video"].message_type.full_name == "zoetrope.video.v1.TextToVideo"
    assert pool.FindMessageTypeByName("google.longrunning.Operation")


def test_reflection_v1(service: Service) -> None:
    """What newer tools ask for first; its messages are those of v1alpha."""
    ask = service.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest
    services, symbol = ask(
        iter([request(list_services=""), request(file_containing_symbol="grpc.reflection.v1.ServerReflection")])
    )
    assert {VIDEO_SERVICE, "grpc.reflection.v1.ServerReflection"} < {
        service.name for service in services.list_services_response.service
    }
    (data,) = symbol.file_descriptor_response.file_descriptor_proto
    file = DescriptorPool().Add(descriptor_pb2.FileDescriptorProto.FromString(data))
    method = file.services_by_name["ServerReflection"].methods_by_name["ServerReflectionInfo"]
    assert method.input_type.full_name == "grpc.reflection.v1.ServerReflectionRequest"


def test_gateway_killed_in_mid_job(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        name = service.client.create(prompt="a red circle", steps=9)
        watch = Collector(service.client.watch(name))
        waiting = Collector(service.client.wait(name) for _ in range(1))
        job = service.claim(name)
        service.progress(job, Stage.DENOISING, 3)
        until(lambda: watch.seen and watch.seen[-1].step == 3)
        service.gateway.kill()
        creating = Collector(service.client.create(prompt="while it is away") for _ in range(1))
        service.progress(job, Stage.DENOISING, 7)
        service.gateway = GatewayProcess(service.settings)
        assert service.gateway.bound == {"grpc": service.settings.grpc, "http": service.settings.http}
        until(lambda: watch.seen[-1].step == 7)
        service.succeed(job, b"video", tmp_path)
        events = watch.join()
        assert events[-1].state == "succeeded"
        assert [event.step for event in events] == sorted(event.step for event in events)
        assert waiting.join()[0].state == "succeeded"
        assert service.client.get(creating.join()[0]).state == "queued"
        service.client.download(name, tmp_path / "out.mp4")
        assert (tmp_path / "out.mp4").read_bytes() == b"video"


def test_client_gives_up_on_a_service_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target = f"127.0.0.1:{taken.getsockname()[1]}"
    with VideoClient(target, retry_seconds=0.5) as client:
        start = time.monotonic()
        for call in (
            lambda: client.create(prompt="x"),
            lambda: list(client.watch("operations/x")),
            lambda: client.get("operations/x"),
        ):
            with pytest.raises(Exception, match=f"no answer from {target}: [^\n]*$") as caught:
                call()
            assert getattr(caught.value, "code", None) == "UNAVAILABLE"
        assert 1.0 <= time.monotonic() - start < 15


def test_sigterm_ends_streams_and_the_process(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        name = service.client.create(prompt="a red circle")
        watch = Collector(service.videos.WatchVideo(video_pb2.WatchVideoRequest(name=name)))
        until(lambda: watch.seen)
        status, errors = service.gateway.stop()
        assert status == 0
        assert "Traceback" not in errors
        code, rich = failure(watch.join)
        assert (code, rich.message) == ("UNAVAILABLE", "the gateway is stopping; call again")


def test_calls_that_come_while_it_stops_are_told_to_come_again(tmp_path: Path) -> None:
    codes: Counter[str] = Counter()
    answered = threading.Event()

    with running_service(tmp_path) as service:

        def ask_on() -> None:
            local = (("grpc.use_local_subchannel_pool", 1),)
            with grpc.insecure_channel(service.target, local) as channel:
                operations = operations_pb2_grpc.OperationsStub(channel)
                while True:
                    try:
                        operations.GetOperation(operations_pb2.GetOperationRequest(name="operations/none"), timeout=10)
                    except grpc.RpcError as error:
                        codes[error.code().name] += 1
                        if error.code() is not grpc.StatusCode.NOT_FOUND:
                            return
                        answered.set()

        callers = [threading.Thread(target=ask_on) for _ in range(12)]
        for thread in callers:
            thread.start()
        assert answered.wait(20)
        assert service.gateway.stop()[0] == 0
        for thread in callers:
            thread.join()
    assert codes.keys() == {"NOT_FOUND", "UNAVAILABLE"}
    assert codes["UNAVAILABLE"] == len(callers)


def test_end_of_stdin_ends_the_process(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        process = service.gateway.process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=15) == 0


BREAKS = """
import sys
from zoetrope.serving.gateway import main
from zoetrope.serving.gateway.watch.revocation import RevocationWatch

async def run(self):
    raise KeyError("a secret")

RevocationWatch.run = run
sys.exit(main.main())
"""


def test_a_gateway_in_which_something_broke_says_so(tmp_path: Path) -> None:
    """By its exit status as well: a container that ends with 0 has done what it was there for."""
    settings = Settings(
        model=(str(write_checkpoint(tmp_path / MODEL)),),
        grpc="127.0.0.1:0",
        http="127.0.0.1:0",
        data_dir=tmp_path / "d",
    )
    environment = {**os.environ, "ZOETROPE_SETTINGS": settings.as_json()}
    with (tmp_path / "errors").open("w+b") as errors:
        command = [sys.executable, "-c", BREAKS]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stderr=errors) as process:
            assert process.wait(60) == 1  # with its stdin open
    said = (tmp_path / "errors").read_text()
    assert "run ended:" in said and "KeyError" in said
    assert "a secret" not in said


# Each line of stdin is the settings of a gateway and two files to write to. It is a process of its own, but it has what
# this one has imported, which takes far longer than all that it does.
FORKS = """
import json, os, sys
from zoetrope.serving.gateway.main import main

for line in sys.stdin:
    settings, *files = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in enumerate(files, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ["ZOETROPE_SETTINGS"] = settings
        sys.exit(main())
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def run_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunGateway]:
    """Run gateways that cannot start."""
    files = [tmp_path_factory.mktemp("said") / name for name in ("stdout", "stderr")]
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:
        assert forks.stdin is not None and forks.stdout is not None
        stdin, stdout = forks.stdin, forks.stdout

        def run(settings: str) -> tuple[int, str, str]:
            stdin.write(json.dumps([settings, *map(str, files)]) + "\n")
            stdin.flush()
            status = int(stdout.readline())
            said, errors = (file.read_text() for file in files)
            lines = errors.splitlines()
            assert len(lines) == 1, errors
            return status, said, lines[0]

        yield run


def test_taken_port(tmp_path: Path, run_gateway: RunGateway) -> None:
    with running_service(tmp_path) as service:
        for field in ("grpc", "http", "management"):
            settings = service.settings.model_copy(update={"grpc": "127.0.0.1:0", "http": "127.0.0.1:0"})
            settings = settings.model_copy(update={field: service.settings.http})
            status, output, line = run_gateway(settings.model_dump_json())
            assert (status, output) == (2, "")
            assert line == f"error: {field}: cannot listen at {service.settings.http}: Address already in use"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grpc": "nowhere"}, "error: grpc: 'nowhere' must be HOST:PORT"),
        ({"grpc": "256.1.1.1:0"}, "error: grpc, http: other machines can connect to these addresses"),
        ({"http": "0.0.0.0:0"}, "error: grpc, http: other machines can connect to these addresses"),
        ({"tls_cert": "c.pem"}, "error: tls_cert and tls_key must be given together"),
        ({"tls_client_ca": "c.pem"}, "error: tls_cert and tls_key must be given together; tls_client_ca requires both"),
        ({"tls_cert": "c.pem", "tls_key": "k.pem"}, "error: tls_cert, tls_key, tls_client_ca: cannot be used: "),
        ({"database": "mysql://x"}, "error: a database URL starts with sqlite:/// or postgresql://"),
        ({"blocked_words": "/nowhere/words"}, "error: blocked_words: "),
        ({"allow_networks": ["10.0.0.0/99"]}, "error: allow_networks: "),
        ({"http": "127.0.0.1:65536"}, "error: http: '127.0.0.1:65536' must be HOST:PORT"),
        ({"model": "no-such-model"}, "error: model 'no-such-model' is neither a preset"),
        ({"data_dir": "/dev/null/x"}, "error: data-dir: /dev/null/x cannot be created: Not a directory"),
        ({"max_queued": 0}, "error: ZOETROPE_SETTINGS: max_queued: 0 must be at least 1"),
    ],
)
def test_bad_settings(tmp_path: Path, changes: dict[str, Any], message: str, run_gateway: RunGateway) -> None:
    base = {"model": str(write_checkpoint(tmp_path / MODEL)), "grpc": "127.0.0.1:0", "http": "127.0.0.1:0"}
    status, output, line = run_gateway(json.dumps({**base, "data_dir": str(tmp_path / "data"), **changes}))
    assert (status, output) == (2, "")
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("256.1.1.1:0", "error: grpc: cannot listen at 256.1.1.1:0: "),
        ("192.0.2.1:0", "error: grpc: cannot listen at 192.0.2.1:0: Cannot assign requested address"),
    ],
)
def test_addresses_that_this_machine_does_not_have(
    tmp_path: Path, address: str, message: str, run_gateway: RunGateway
) -> None:
    settings = Settings(
        model=(str(write_checkpoint(tmp_path / MODEL)),), grpc=address, http="127.0.0.1:0", data_dir=tmp_path / "data"
    )
    settings.directory.mkdir()
    with contextlib.closing(open_stores(settings.database_url)) as stores:
        stores.keys.create("k", "us")
    status, _, line = run_gateway(settings.model_dump_json())
    assert status == 2
    assert line.startswith(message)


def test_damaged_database(tmp_path: Path, run_gateway: RunGateway) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "jobs.db").write_bytes(b"not a database" * 100)
    settings = Settings(model=(str(write_checkpoint(tmp_path / MODEL)),), data_dir=tmp_path / "data")
    status, _, line = run_gateway(settings.model_dump_json())
    assert status == 2
    assert "jobs.db" in line


def test_gateway_imports_neither_torch_nor_ray() -> None:
    heavy = ("torch", "ray", "diffusers")
    code = f"import sys, zoetrope.serving.gateway.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"

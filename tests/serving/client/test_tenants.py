"""API keys on and off, limits of a key, and what one tenant sees of another's: nothing, whichever method it calls."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from tests.serving.gateway.harness import MODEL, Service, detail, failure, reason, running_service, text_request, until
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.api.zoetrope.video.v1 import (
    account_pb2,
    account_pb2_grpc,
    engines_pb2,
    engines_pb2_grpc,
    media_pb2,
    media_pb2_grpc,
    video_pb2,
    video_pb2_grpc,
)
from zoetrope.serving.client import ClientError, OperationStatus, VideoClient
from zoetrope.serving.jobs.job import Result, State
from zoetrope.serving.jobs.key_table import KeyLimits

UNKNOWN = "vid_none"


class Stubs:
    """The service's methods by name, such as ``VideoService.CreateVideo``."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stubs: dict[str, Any] = {
            "VideoService": video_pb2_grpc.VideoServiceStub(channel),  # type: ignore[no-untyped-call]
            "MediaService": media_pb2_grpc.MediaServiceStub(channel),  # type: ignore[no-untyped-call]
            "AccountService": account_pb2_grpc.AccountServiceStub(channel),  # type: ignore[no-untyped-call]
            "EngineService": engines_pb2_grpc.EngineServiceStub(channel),  # type: ignore[no-untyped-call]
            "Operations": operations_pb2_grpc.OperationsStub(channel),
        }

    def method(self, name: str) -> Any:
        service, _, method = name.partition(".")
        return getattr(self._stubs[service], method)


@dataclass
class Tenant:
    """Calls with a key of its own."""

    client: VideoClient
    stubs: Stubs
    metadata: tuple[tuple[str, str], ...]

    def call(self, method: str, message: Any) -> Any:
        """The answer; of a stream the list of messages."""
        answer = self.stubs.method(method)(message, metadata=self.metadata, timeout=20)
        return list(answer) if isinstance(answer, grpc.Future) and hasattr(answer, "__next__") else answer


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("gateway"), keys="required") as service:
        yield service


def key_of(service: Service, owner: str, limits: KeyLimits | None = None) -> str:
    _, secret = service.stores.keys.create(f"key of {owner}", owner, limits)
    return secret


def tenant(service: Service, secret: str | None) -> Tenant:
    metadata = (("authorization", f"Bearer {secret}"),) if secret else ()
    return Tenant(VideoClient(service.target, api_key=secret or ""), Stubs(service.channel), metadata)


@pytest.fixture(scope="module")
def alice(gateway: Service) -> Iterator[Tenant]:
    made = tenant(gateway, key_of(gateway, "alice"))
    yield made
    made.client.close()


@pytest.fixture(scope="module")
def mallory(gateway: Service) -> Iterator[Tenant]:
    made = tenant(gateway, key_of(gateway, "mallory"))
    yield made
    made.client.close()


@dataclass(frozen=True)
class Belongings:
    """Of Alice: a job that is done, one that waits, a file and an upload in progress."""

    done: str
    waiting: str
    file: str
    upload: str


@pytest.fixture(scope="module")
def belongings(gateway: Service, alice: Tenant, tmp_path_factory: pytest.TempPathFactory) -> Belongings:
    done = alice.client.create(prompt="a secret")
    (job,) = claim_oldest(gateway.store, "test", 10, 60.0, 5, (MODEL,))
    path = tmp_path_factory.mktemp("files") / "video.mp4"
    path.write_bytes(b"video")
    video = gateway.artifacts.put_file(f"jobs/{job.id}/1/video.mp4", path, "video/mp4")
    result = Result(video, None, frames=33, width=832, height=480, fps=16)
    assert gateway.store.finish(job.id, job.lease_epoch, State.SUCCEEDED, result=result)
    waiting = alice.client.create(prompt="another secret")
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(picture, "png")
    file = alice.client.upload(picture.getvalue()).name
    upload = alice.call(
        "MediaService.CreateMedia",
        media_pb2.CreateMediaRequest(size_bytes=3, sha256=hashlib.sha256(b"abc").hexdigest()),
    ).name
    return Belongings(done, waiting, file, upload)


def image_request(media: media_pb2.Media) -> video_pb2.CreateVideoRequest:
    return video_pb2.CreateVideoRequest(image_to_video=video_pb2.ImageToVideo(image=media))


def video_name(operation: str) -> str:
    return operation.replace("operations/", "videos/")


def requests(own: Belongings) -> dict[str, list[Any]]:
    """Every method with the messages that name something of Alice's; empty: it can name nothing."""
    video, file = media_pb2.Media(video=video_name(own.done)), media_pb2.Media(name=own.file)
    changes = video_pb2.VideoChanges(labels={"a": "b"})
    jobs = (own.done, own.waiting)
    return {
        "VideoService.CreateVideo": [image_request(file), image_request(video)],
        "VideoService.BatchCreateVideos": [
            video_pb2.BatchCreateVideosRequest(requests=[text_request(), image_request(medium)])
            for medium in (file, video)
        ],
        "VideoService.ValidateVideo": [
            video_pb2.ValidateVideoRequest(request=image_request(medium)) for medium in (file, video)
        ],
        "VideoService.GetVideo": [video_pb2.GetVideoRequest(name=name) for name in (*jobs, *map(video_name, jobs))],
        "VideoService.ExtendVideo": [video_pb2.ExtendVideoRequest(name=name) for name in jobs],
        "VideoService.UpdateVideo": [video_pb2.UpdateVideoRequest(name=name, changes=changes) for name in jobs],
        "VideoService.ListVideoEvents": [video_pb2.ListVideoEventsRequest(name=name) for name in jobs],
        "VideoService.ReplayWebhooks": [video_pb2.ReplayWebhooksRequest(name=name) for name in jobs],
        "VideoService.WatchVideo": [video_pb2.WatchVideoRequest(name=name, previews=True) for name in jobs],
        "VideoService.DownloadVideo": [video_pb2.DownloadVideoRequest(name=name) for name in jobs],
        "VideoService.ListModels": [],
        "MediaService.CreateMedia": [],
        "MediaService.WriteMedia": [
            iter([media_pb2.WriteMediaRequest(name=name, data=b"abc")]) for name in (own.file, own.upload)
        ],
        "MediaService.GetMedia": [media_pb2.GetMediaRequest(name=name) for name in (own.file, own.upload)],
        "MediaService.ListMedia": [],
        "MediaService.DeleteMedia": [media_pb2.DeleteMediaRequest(name=name) for name in (own.file, own.upload)],
        "AccountService.GetAccount": [],
        "AccountService.GetWebhookSecret": [],
        "EngineService.ListEngines": [],
        "Operations.GetOperation": [operations_pb2.GetOperationRequest(name=name) for name in jobs],
        "Operations.WaitOperation": [operations_pb2.WaitOperationRequest(name=name) for name in jobs],
        "Operations.CancelOperation": [operations_pb2.CancelOperationRequest(name=name) for name in jobs],
        "Operations.DeleteOperation": [operations_pb2.DeleteOperationRequest(name=name) for name in jobs],
        "Operations.ListOperations": [],
    }


PLAIN: dict[str, Any] = {
    "VideoService.ListModels": video_pb2.ListModelsRequest(),
    "MediaService.CreateMedia": media_pb2.CreateMediaRequest(size_bytes=1),
    "MediaService.ListMedia": media_pb2.ListMediaRequest(),
    "AccountService.GetAccount": account_pb2.GetAccountRequest(),
    "AccountService.GetWebhookSecret": account_pb2.GetWebhookSecretRequest(),
    "EngineService.ListEngines": engines_pb2.ListEnginesRequest(),
    "Operations.ListOperations": operations_pb2.ListOperationsRequest(),
}
METHODS = list(requests(Belongings("", "", "", "")))


def test_the_matrix_has_every_method() -> None:
    services = [
        *video_pb2.DESCRIPTOR.services_by_name.values(),
        *media_pb2.DESCRIPTOR.services_by_name.values(),
        *account_pb2.DESCRIPTOR.services_by_name.values(),
        *engines_pb2.DESCRIPTOR.services_by_name.values(),
        operations_pb2.DESCRIPTOR.services_by_name["Operations"],
    ]
    assert {f"{service.name}.{method.name}" for service in services for method in service.methods} == set(METHODS)
    assert {name for name, named in requests(Belongings("", "", "", "")).items() if not named} == set(PLAIN)


def without_names(text: str, own: Belongings) -> str:
    jobs = (own.done, own.waiting, f"operations/{UNKNOWN}")
    for name in (*jobs, *map(video_name, jobs), own.file, own.upload, "media/med_none"):
        text = text.replace(name, "NAME")
    return text


def seen_by(tenant: Tenant, own: Belongings) -> list[OperationStatus]:
    """Without places in the queue and when they are reached: other tenants' jobs change them, a moment late."""
    names = own.done, own.waiting
    return [replace(tenant.client.get(name), queue_position=0, eta_seconds=None) for name in names]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_anothers_is_not_found(
    method: str, gateway: Service, alice: Tenant, mallory: Tenant, belongings: Belongings
) -> None:
    nothing = Belongings(f"operations/{UNKNOWN}", f"operations/{UNKNOWN}", "media/med_none", "media/med_none")
    for message, unknown in zip(requests(belongings)[method], requests(nothing)[method], strict=True):
        before = seen_by(alice, belongings)
        code, status = failure(lambda message=message: mallory.call(method, message))  # type: ignore[misc]
        assert code == "NOT_FOUND", status.message
        # Nor does the answer tell whether there is such a thing.
        other, same = failure(lambda unknown=unknown: mallory.call(method, unknown))  # type: ignore[misc]
        assert (other, reason(same)) == (code, reason(status))
        assert without_names(same.message, belongings) == without_names(status.message, belongings)
        assert seen_by(alice, belongings) == before
    if method in PLAIN and method != "MediaService.CreateMedia":
        answer = str(mallory.call(method, PLAIN[method]))
        for name in (belongings.done, belongings.waiting, belongings.file, belongings.upload):
            assert name.partition("/")[2] not in answer
        assert "alice" not in answer
    assert gateway.store.list("mallory", page_size=1) == []


@pytest.mark.parametrize("secret", [None, "zk_unknown", "", "Bearer", "zk_" + "x" * 5_000], ids=lambda s: str(s)[:10])
@pytest.mark.parametrize("method", METHODS)
def test_no_method_without_a_key(method: str, secret: str | None, gateway: Service, belongings: Belongings) -> None:
    metadata = (("authorization", secret),) if secret else ()
    stranger = Tenant(VideoClient(gateway.target), Stubs(gateway.channel), metadata)
    for message in requests(belongings)[method] or [PLAIN[method]]:
        code, status = failure(lambda message=message: stranger.call(method, message))  # type: ignore[misc]
        assert (code, reason(status)) == ("UNAUTHENTICATED", "KEY_NEEDED")
        assert "zk_unknown" not in status.message
    stranger.client.close()


def test_health_needs_no_key(gateway: Service) -> None:
    stub = health_pb2_grpc.HealthStub(gateway.channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_the_same_request_id_of_two_tenants(alice: Tenant, mallory: Tenant, gateway: Service) -> None:
    one = alice.client.create(prompt="a", request_id="same")
    two = mallory.client.create(prompt="b", request_id="same")
    assert one != two
    secrets = {client.webhook_secret() for client in (alice.client, mallory.client)}
    assert len(secrets) == 2
    mallory.client.cancel(two)
    mallory.client.delete(two)
    assert alice.client.get(one).state == "queued"


def test_a_key_that_is_revoked(gateway: Service) -> None:
    key, secret = gateway.stores.keys.create("short", "alice")
    with VideoClient(gateway.target, api_key=secret) as client:
        assert client.account().key_name == "short"
        assert gateway.stores.keys.revoke(key.id)

        def is_over() -> bool:
            try:
                client.account()
            except ClientError as error:
                assert error.code == "UNAUTHENTICATED"
                return True
            return False

        until(is_over, 10)


def test_rate(gateway: Service) -> None:
    secret = key_of(gateway, "fast", KeyLimits(requests_per_second=2, burst=1))
    fast = tenant(gateway, secret)
    fast.call("AccountService.GetAccount", account_pb2.GetAccountRequest())
    code, status = failure(lambda: fast.call("AccountService.GetAccount", account_pb2.GetAccountRequest()))
    assert (code, reason(status)) == ("RESOURCE_EXHAUSTED", "RATE_EXCEEDED")
    retry: Any = detail(status, error_details_pb2.RetryInfo)
    assert 0 < retry.retry_delay.ToMilliseconds() <= 500
    quota: Any = detail(status, error_details_pb2.QuotaFailure)
    assert [v.subject for v in quota.violations] == ["requests_per_second"]
    with pytest.raises(ClientError) as caught:
        for _ in range(3):
            fast.client.account()
    assert caught.value.reason == "RATE_EXCEEDED"
    assert caught.value.retry_seconds is not None
    assert 0 < caught.value.retry_seconds <= 0.5
    # Who asked to wait does, as long as it takes.
    with VideoClient(gateway.target, api_key=secret, patience=5) as patient:
        start = time.monotonic()
        for _ in range(3):
            patient.account()
        assert time.monotonic() - start >= 1.0


def test_quotas(gateway: Service) -> None:
    for owner, limits, quota in (
        ("few", KeyLimits(concurrent_jobs=1), "concurrent_jobs"),
        ("short", KeyLimits(queued_seconds=3.0), "queued_seconds"),
    ):
        who = tenant(gateway, key_of(gateway, owner, limits))
        first = who.client.create(prompt="a", duration_seconds=2.0, request_id="first")
        code, status = failure(
            lambda who=who: who.call("VideoService.CreateVideo", text_request(duration_seconds=2))  # type: ignore[misc]
        )
        assert (code, reason(status)) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        failed: Any = detail(status, error_details_pb2.QuotaFailure)
        assert [v.subject for v in failed.violations] == [quota]
        assert detail(status, error_details_pb2.RetryInfo) is not None
        info: Any = detail(status, error_details_pb2.ErrorInfo)
        assert info.metadata["quota"] == quota
        account = who.client.account()
        assert (account.tenant, account.concurrent_jobs_used, account.queued_seconds_used) == (owner, 1, 2.0)
        assert (account.concurrent_jobs, account.queued_seconds) == (limits.concurrent_jobs, limits.queued_seconds)
        assert who.client.create(prompt="a", duration_seconds=2.0, request_id="first") == first
        who.client.cancel(first)
        who.client.cancel(who.client.create(prompt="a", duration_seconds=2.0))
        who.client.close()


def test_a_tenant_has_half_of_what_others_leave_of_the_queue(tmp_path: Path) -> None:
    with running_service(tmp_path, keys="required", max_queued=5) as service:
        for owner, held in (("a", 3), ("b", 1)):
            who = tenant(service, key_of(service, owner))
            assert (who.client.account().queued_jobs, who.client.account().queued_jobs_used) == (held, 0)
            for _ in range(held):
                who.client.create(prompt="x", priority=9)
            with pytest.raises(ClientError, match=rf"^queued_jobs: {held} are used of the {held} that this tenant may"):
                who.client.create(prompt="x", priority=9)
            account = who.client.account()
            assert (account.queued_jobs, account.queued_jobs_used, account.max_queued) == (held, held, 5)
            who.client.close()


def test_results_count_against_a_quota(gateway: Service, tmp_path: Path) -> None:
    who = tenant(gateway, key_of(gateway, "collector", KeyLimits(result_bytes=10)))
    assert who.client.account().result_bytes_used == 0
    name = who.client.create(prompt="x")
    (job,) = gateway.store.claim("r", [name.removeprefix("operations/")], 60.0, 5)
    gateway.succeed(job, b"x" * 8, tmp_path, latents=b"y" * 4)
    account = who.client.account()
    assert (account.max_result_bytes, account.result_bytes_used) == (10, 12)
    with pytest.raises(ClientError) as caught:
        who.client.create(prompt="x")
    assert (caught.value.code, caught.value.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    words = "result_bytes: 12 are used of the 10 that this tenant may keep; delete some jobs, or wait until they expire"
    assert str(caught.value) == words
    who.client.delete(name)
    assert who.client.create(prompt="x") != name
    who.client.close()


def test_models_and_priority_of_a_key(gateway: Service) -> None:
    who = tenant(gateway, key_of(gateway, "low", KeyLimits(max_priority=3, models=(MODEL,))))
    assert who.client.account().max_priority == 3
    with pytest.raises(ClientError, match=r"^priority: 4 must be from 0 to 3$"):
        who.client.create(prompt="a", priority=4)
    name = who.client.create(prompt="a", priority=3)
    with pytest.raises(ClientError, match=r"^changes\.priority: 4 must be from 0 to 3$"):
        who.client.update(name, priority=4)
    who.client.cancel(name)
    other = tenant(gateway, key_of(gateway, "other", KeyLimits(models=("elsewhere",))))
    with pytest.raises(ClientError) as caught:
        other.client.create(prompt="a")
    assert (caught.value.code, caught.value.reason) == ("NOT_FOUND", "UNKNOWN_MODEL")
    for it in (who, other):
        it.client.close()


def test_keys_are_asked_for_once_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_service(tmp_path) as service:
        service.client.create(prompt="of nobody")
        with VideoClient(service.target, api_key="whatever") as client:
            assert client.account().tenant == ""
        secret = key_of(service, "alice")

        def closed() -> bool:
            try:
                service.client.account()
            except ClientError as error:
                assert error.code == "UNAUTHENTICATED"
                return True
            return False

        until(closed, 10)
        monkeypatch.setenv("ZOETROPE_API_KEY", secret)
        with VideoClient(service.target) as client:
            assert client.account().tenant == "alice"
            assert client.list().operations == ()


def test_forms_of_the_header(gateway: Service) -> None:
    secret = key_of(gateway, "alice")
    for value in (secret, f"Bearer {secret}", f"bearer  {secret}", f"Token {secret}"):
        who = Tenant(VideoClient(gateway.target), Stubs(gateway.channel), (("authorization", value),))
        assert who.call("AccountService.GetAccount", account_pb2.GetAccountRequest()).tenant == "alice"
        who.client.close()

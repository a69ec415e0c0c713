"""Requests call the served model by any of its names."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from tests.serving.gateway.harness import MODEL, Service, running_service
from tests.serving.jobs.harness import claim_oldest
from zoetrope.serving.client import ClientError, VideoClient
from zoetrope.serving.jobs.key_table import KeyLimits, KeyTable


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("names"), served_model_name=("sora-2", "acme/video-1")) as service:
        yield service


@pytest.fixture
def sdk(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.http}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_job_runs_under_the_models_own_name_and_shows_the_one_that_was_asked_for(
    service: Service, sdk: OpenAI
) -> None:
    for name, shown in (("sora-2", "sora-2"), ("acme/video-1", "acme/video-1"), (MODEL, MODEL)):
        video = sdk.videos.create(model=name, prompt="a red circle")
        assert video.model == shown
        assert sdk.videos.retrieve(video.id).model == shown
        assert service.claim(video.id).model == MODEL
        service.empty_queue()
    assert service.client.get(service.client.create(prompt="a", model="sora-2")).model == MODEL
    service.empty_queue()


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/models/acme/video-1/predictions", {"input": {"prompt": "x"}}, {}),
        ("/v1/models/wan-video/sora-2/predictions", {"input": {"prompt": "x"}}, {}),
        ("/zoetrope/sora-2", {"prompt": "x"}, {}),
        (
            "/api/v1/services/aigc/video-generation/video-synthesis",
            {"model": "sora-2", "input": {"prompt": "x"}},
            {"x-dashscope-async": "enable"},
        ),
    ],
)
def test_every_api_takes_them(service: Service, path: str, body: object, headers: dict[str, str]) -> None:
    made = httpx.post(service.http + path, json=body, headers=headers)
    assert made.is_success, made.text
    (job,) = claim_oldest(service.store, "test", 10, 60.0, 5, (MODEL,))
    assert job.spec["task"]["kind"] == "text_to_video"
    service.empty_queue()


def test_all_names_are_listed(service: Service, sdk: OpenAI) -> None:
    (model,) = service.client.models()
    assert (model.name, model.aliases) == (MODEL, ("sora-2", "acme/video-1"))
    assert [model.id for model in sdk.models.list()] == [MODEL, "sora-2", "acme/video-1"]
    assert sdk.models.retrieve("sora-2").id == "sora-2"


def test_an_unknown_name_is_refused_with_all_that_are_served(service: Service) -> None:
    with pytest.raises(ClientError, match=rf"'sora-3' is not served here; served: {MODEL}, sora-2, acme/video-1"):
        service.client.create(prompt="a", model="sora-3")


def test_a_key_may_name_any_of_them(service: Service) -> None:
    keys: KeyTable = service.stores.keys
    _, may = keys.create("may", "them", KeyLimits(models=("sora-2",)))
    _, may_not = keys.create("may not", "them", KeyLimits(models=("sora-1",)))
    with VideoClient(service.target, api_key=may) as client:
        client.create(prompt="a", model="sora-2")
    with VideoClient(service.target, api_key=may_not) as client, pytest.raises(ClientError, match="sora-1"):
        client.create(prompt="a", model="sora-2")

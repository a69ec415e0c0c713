"""Adapters that requests name are looked up among those of the caller's tenant, and become part of the job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.specs import VideoSpec, segment_of
from zoetrope.model.request.tasks import InvalidRequest
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.core.error_mapping import as_api_error
from zoetrope.serving.gateway.submit.adapters import UnknownAdapter
from zoetrope.serving.gateway.submit.media import ClientMedia
from zoetrope.serving.gateway.submit.submission import Submission, Submitter
from zoetrope.serving.jobs.adapter_table import file_key
from zoetrope.serving.jobs.errors import RequestConflict
from zoetrope.serving.jobs.job import Job
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.outbound import Guard
from zoetrope.serving.outbound.hooks import Moderation
from zoetrope.serving.router.pipeline import JobFailed, check_adapters
from zoetrope.serving.storage.store import open_artifacts

TASK = {"kind": "text_to_video", "prompt": "a red circle"}
STUDIO, GUEST = Principal("studio"), Principal("guest")
RANKS = {"ink": 16, "oil": 32, "pixels": 48, "secret": 8}


class Desk:
    """A service's intake with four adapters: of the studio, of all, of the studio, of nobody else."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.settings = Settings(data_dir=folder, **settings)
        self.stores: Stores = open_stores(self.settings.database_url)
        self.sandbox = Sandbox()
        media = ClientMedia(
            self.settings,
            self.stores.media,
            self.stores.jobs,
            open_artifacts(self.settings.artifacts_url),
            self.sandbox,
            Guard(),
        )
        models = ServedModels([find_model("nano")])
        self.submitter = Submitter(
            self.settings, models, self.stores.jobs, media, Moderation(self.settings), Guard(), self.stores.adapters
        )
        for name, rank in RANKS.items():
            self.register(name, rank, None if name == "oil" else ("lab",) if name == "secret" else ("studio",))

    def register(self, name: str, rank: int, tenants: tuple[str, ...] | None, sha256: str = "") -> None:
        self.stores.adapters.add(
            name, "nano", tenants, adapter_id=f"lora_{name}", sha256=sha256 or name * 8, size_bytes=1, rank=rank
        )

    async def submit(self, who: Principal, *loras: dict[str, Any], request_id: str = "", **fields: Any) -> Job:
        data = {"task": TASK, "loras": list(loras), **fields}
        return await self.submitter.submit(Submission(data, request_id=request_id), who)

    def close(self) -> None:
        self.sandbox.close()
        self.stores.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


async def test_a_job_knows_what_its_adapters_are(desk: Desk) -> None:
    job = await desk.submit(STUDIO, {"name": "oil", "strength": 0.5}, {"name": "ink"})
    spec = VideoSpec.from_dict(job.spec)
    assert [(a.name, a.digest, a.key, a.rank, a.strength, a.strength_low) for a in spec.adapters] == [
        ("oil", "oil" * 8, file_key("lora_oil"), 32, 0.5, None),
        ("ink", "ink" * 8, file_key("lora_ink"), 16, 1.0, None),
    ]
    assert segment_of(spec, "s").loras == spec.adapters
    assert VideoSpec.from_dict((await desk.submit(GUEST)).spec).adapters == ()


@pytest.mark.parametrize("name", ["ink", "secret", "nothing"])
async def test_an_adapter_of_another_tenant_is_as_unknown_as_none(name: str, desk: Desk) -> None:
    with pytest.raises(UnknownAdapter) as caught:
        await desk.submit(GUEST, {"name": "oil"}, {"name": name})
    error = as_api_error(caught.value)
    assert (error.code, error.reason) == ("NOT_FOUND", "UNKNOWN_ADAPTER")
    assert error.message == f"loras.1.name: '{name}' is not a known adapter; registered: oil"


@pytest.mark.parametrize(
    ("loras", "field", "message"),
    [
        (("oil", "oil"), "loras.1.name", "'oil' is named twice"),
        (("oil", "pixels"), "loras", "have rank 32 + 48, at most 64 together is allowed here (ZOETROPE_ADAPTER_RANK)"),
        (("ink", "oil", "pixels"), "loras", "has 3 entries, at most 2 are allowed"),
    ],
)
async def test_adapters_that_do_not_go_together(loras: tuple[str, ...], field: str, message: str, desk: Desk) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await desk.submit(STUDIO, *({"name": name} for name in loras))
    assert [(v.field, v.description) for v in caught.value.violations] == [(field, message)]


@pytest.mark.parametrize("strength", [2.5, -2.5, float("nan"), float("inf")])
async def test_strengths_out_of_range_are_told_before_names_that_are_not_known(strength: float, desk: Desk) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await desk.submit(STUDIO, {"name": "nothing", "strength": strength})
    assert [v.field for v in caught.value.violations] == ["loras.0.strength"]


async def test_a_service_without_slots_takes_none(tmp_path: Path) -> None:
    desk = Desk(tmp_path, adapter_slots=0)
    with pytest.raises(InvalidRequest, match="loras: cannot be applied: this service has no adapter slots"):
        await desk.submit(STUDIO, {"name": "ink"})
    desk.close()


async def test_another_file_under_a_name_is_another_request(desk: Desk) -> None:
    job = await desk.submit(STUDIO, {"name": "ink"}, request_id="one")
    assert await desk.submit(STUDIO, {"name": "ink"}, request_id="one") == job
    desk.stores.adapters.remove("ink", "nano")
    with pytest.raises(UnknownAdapter):
        await desk.submit(STUDIO, {"name": "ink"}, request_id="two")
    desk.register("ink", 16, None, sha256="other")
    with pytest.raises(RequestConflict):
        await desk.submit(STUDIO, {"name": "ink"}, request_id="one")


async def test_a_queued_job_whose_adapter_is_removed_fails_by_name(desk: Desk) -> None:
    spec = VideoSpec.from_dict((await desk.submit(STUDIO, {"name": "oil"}, {"name": "ink"})).spec)
    check_adapters(spec, desk.stores.adapters, 4)
    with pytest.raises(JobFailed, match="the service has no adapter slots any more"):
        check_adapters(spec, desk.stores.adapters, 0)
    desk.stores.adapters.remove("ink", "nano")
    with pytest.raises(JobFailed, match=r"^its adapter ink was removed$") as caught:
        check_adapters(spec, desk.stores.adapters, 4)
    assert caught.value.code == "FAILED_PRECONDITION"

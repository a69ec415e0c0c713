"""The one way in, without gRPC."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.presets import find_model
from model.tasks import InvalidRequest, Violation, parse_request
from serving.api.names import JOB_ID, new_id
from serving.artifacts import open_artifacts
from serving.gateway.doorkeeper import Principal
from serving.gateway.intake import Intake, Order, UnknownModel, fingerprint
from serving.gateway.media_desk import MediaDesk
from serving.gateway.options import Options
from serving.jobs.job import Job, Webhook
from serving.jobs.key_table import KeyLimits
from serving.jobs.open import Stores, open_stores
from serving.jobs.store import QueueFull, QuotaExceeded, RequestConflict
from serving.media.sandbox import Sandbox
from serving.moderation import Moderation
from serving.net import Guard
from serving.settings import Settings
from tests.serving.gateway.harness import MODEL, write_checkpoint

TASK = {"kind": "text_to_video", "prompt": "a red circle"}
US, THEM = Principal("us"), Principal("them")


@dataclass
class Desk:
    """An intake and what it stores in."""

    intake: Intake
    stores: Stores

    async def submit(self, who: Principal = US, request_id: str = "", **fields: Any) -> Job:
        return await self.intake.submit(Order({"task": TASK, **fields}, request_id=request_id), who)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    settings = Settings(data_dir=tmp_path, max_queued=10)
    stores, sandbox = open_stores(settings.database_url), Sandbox()
    artifacts = open_artifacts(settings.artifacts_url)
    card = find_model(str(write_checkpoint(tmp_path / MODEL)))
    media = MediaDesk(settings, stores.media, stores.jobs, artifacts, sandbox, Guard())
    yield Desk(Intake(settings, card, stores.jobs, media, Moderation(settings)), stores)
    sandbox.close()
    stores.close()


async def test_request_ids_belong_to_an_owner(desk: Desk) -> None:
    ours = await desk.submit(US, "one")
    theirs = await desk.submit(THEM, "one", steps=3)
    assert ours.id != theirs.id
    assert await desk.submit(US, "one") == ours
    with pytest.raises(RequestConflict):
        await desk.submit(US, "one", steps=3)
    # Without an id every call is a new job.
    assert len({(await desk.submit()).id for _ in range(3)}) == 3


@pytest.mark.parametrize(
    "options",
    [
        Options(labels={"project": "x"}),
        Options(priority=3),
        Options(deadline_at=time.time() + 3_600),
        Options(retention_seconds=60.0),
        Options(webhook=Webhook("https://example.com/hook")),
    ],
)
async def test_a_request_id_with_other_options_is_another_request(desk: Desk, options: Options) -> None:
    first = await desk.submit(US, "one")
    with pytest.raises(RequestConflict):
        await desk.intake.submit(Order({"task": TASK}, options, "one"), US)
    same = Options(origin={"api": "openai"}, traceparent="00-0-0-00")
    assert await desk.intake.submit(Order({"task": TASK}, same, "one"), US) == first
    other = await desk.intake.submit(Order({"task": TASK}, options, "two"), US)
    assert await desk.intake.submit(Order({"task": TASK}, options, "two"), US) == other


async def test_random_seeds_do_not_make_a_replay_another_request(desk: Desk) -> None:
    first = await desk.submit(US, "one")
    assert (await desk.submit(US, "one")).spec["seed"] == first.spec["seed"]


async def test_wrong_types_are_named(desk: Desk) -> None:
    order = Order({"task": TASK, "steps": "many", "colour": "red"}, found=[Violation("format", "is not known")])
    with pytest.raises(InvalidRequest) as caught:
        await desk.intake.submit(order, US)
    assert [violation.field for violation in caught.value.violations] == ["format", "steps", "colour"]


async def test_unknown_model(desk: Desk) -> None:
    with pytest.raises(UnknownModel, match=r"^model: 'other' is not served here; served: tiny$"):
        await desk.submit(model="other")
    elsewhere = replace(US, limits=KeyLimits(models=("other",)))
    with pytest.raises(UnknownModel, match=r"^model: 'tiny' is not served here; served: other$"):
        await desk.submit(elsewhere)


async def test_a_batch_is_stored_whole_or_not_at_all(desk: Desk) -> None:
    orders = [Order({"task": TASK, "steps": steps}) for steps in (1, 0, 2, 1_001)]
    with pytest.raises(InvalidRequest) as caught:
        await desk.intake.submit_all(orders, US)
    assert [violation.field for violation in caught.value.violations] == ["requests.1.steps", "requests.3.steps"]
    with pytest.raises(QueueFull):
        await desk.intake.submit_all([Order({"task": TASK})] * 11, US)
    for count in (0, 101):
        with pytest.raises(InvalidRequest, match=f"requests: has {count} entries, give 1 to 100"):
            await desk.intake.submit_all([Order({"task": TASK})] * count, US)
    assert desk.stores.jobs.list("us", page_size=5) == []
    jobs = await desk.intake.submit_all([Order({"task": TASK, "steps": steps}) for steps in (1, 2)], US)
    assert [job.steps for job in jobs] == [1, 2]


async def test_quotas_of_a_key(desk: Desk) -> None:
    key, _ = desk.stores.keys.create("k", "us", KeyLimits(concurrent_jobs=1))
    who = Principal("us", key.id, "k", key.limits)
    first = await desk.submit(who, "one")
    with pytest.raises(QuotaExceeded) as caught:
        await desk.submit(who)
    assert (caught.value.quota, caught.value.limit, caught.value.used) == ("concurrent_jobs", 1, 1)
    assert (await desk.submit(who, "one")).id == first.id
    desk.stores.jobs.request_cancel(first.id, "us")
    await desk.submit(who)
    long = replace(who, limits=KeyLimits(queued_seconds=5))
    with pytest.raises(QuotaExceeded, match="queued_seconds"):
        await desk.submit(long, duration_seconds=4.0)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (Options(labels={str(i): "" for i in range(33)}), "labels"),
        (Options(labels={"a b": ""}), "labels"),
        (Options(labels={"a": "x" * 257}), "labels.a"),
        (Options(priority=10), "priority"),
        (Options(priority=-1), "priority"),
        (Options(deadline_at=1.0), "deadline"),
        (Options(retention_seconds=0), "retention"),
        (Options(retention_seconds=8 * 86_400.0), "retention"),
        (Options(expand_prompt=True), "expand_prompt"),
    ],
)
async def test_bad_options(options: Options, field: str, desk: Desk) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await desk.intake.submit(Order({"task": TASK}, options), US)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert desk.stores.jobs.list("us", page_size=1) == []


def test_job_ids() -> None:
    ids = {new_id(JOB_ID) for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("vid_[a-z2-7]{24}", job_id) for job_id in ids)


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "size": st.sampled_from(["480p", "720p"]),
    "ratio": st.sampled_from(["16:9", "1:1"]),
    "frames": st.none() | st.integers(1, 9),
    "steps": st.none() | st.integers(1, 9),
    "guidance": st.none() | st.floats(0, 30),
    "seed": st.none() | st.integers(0, 9),
    "container": st.sampled_from(["mp4", "mkv"]),
    "keep_latents": st.booleans(),
    "task": st.fixed_dictionaries(
        {
            "kind": st.just("text_to_video"),
            "prompt": st.sampled_from(["a", "b"]),
            "negative_prompt": st.sampled_from(["", "c"]),
        }
    ),
}
MEDIA = st.dictionaries(st.sampled_from(["m0", "m1"]), st.sampled_from(["x", "y"]))


@given(st.fixed_dictionaries({}, optional=FIELDS), st.fixed_dictionaries({}, optional=FIELDS), MEDIA, MEDIA)
def test_fingerprints_tell_requests_apart(
    first: dict[str, Any], second: dict[str, Any], some: dict[str, str], others: dict[str, str]
) -> None:
    one, two = (parse_request({"task": TASK, **fields}) for fields in (first, second))
    same = one == two and some == others
    assert (fingerprint(one, MODEL, some) == fingerprint(two, MODEL, others)) == same
    assert fingerprint(one, MODEL, {}) == fingerprint(one.model_copy(update={"model": MODEL}), MODEL, {})
    assert fingerprint(one, MODEL, {}) != fingerprint(one, "other", {})

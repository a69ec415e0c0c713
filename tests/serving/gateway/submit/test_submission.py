"""The one way in, without gRPC."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.gateway.harness import MODEL, write_checkpoint
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.weights_identity import weights_of
from zoetrope.model.request.fused_adapter import FusedAdapter
from zoetrope.model.request.load_options import LoadOptions
from zoetrope.model.request.tasks import InvalidRequest, ModelCard, Violation, parse_request
from zoetrope.serving.api.names import JOB_ID, new_id
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.auth.authenticator import Principal
from zoetrope.serving.gateway.submit.media import ClientMedia
from zoetrope.serving.gateway.submit.options import Options
from zoetrope.serving.gateway.submit.submission import Submission, Submitter, UnknownModel, fingerprint
from zoetrope.serving.jobs.errors import QueueFull, QuotaExceeded, RequestConflict
from zoetrope.serving.jobs.job import Job, JobWebhook
from zoetrope.serving.jobs.key_table import KeyLimits
from zoetrope.serving.jobs.open import Stores, open_stores
from zoetrope.serving.media.sandbox.sandbox import Sandbox
from zoetrope.serving.outbound import Guard
from zoetrope.serving.outbound.hooks import Moderation
from zoetrope.serving.storage.store import open_artifacts

TASK = {"kind": "text_to_video", "prompt": "a red circle"}
NANO = find_model("nano")
WAN = replace(NANO, name=MODEL, default_negative_prompt="dull")
US, THEM = Principal("us"), Principal("them")


@dataclass
class Desk:
    """An intake and what it stores in."""

    card: ModelCard
    settings: Settings
    stores: Stores
    media: ClientMedia
    moderation: Moderation

    def serving(self, card: ModelCard) -> Desk:
        """The same with another model."""
        return replace(self, card=card)

    @cached_property
    def submitter(self) -> Submitter:
        models = ServedModels([self.card])
        return Submitter(self.settings, models, self.stores.jobs, self.media, self.moderation, Guard())

    async def submit(self, who: Principal = US, request_id: str = "", **fields: Any) -> Job:
        return await self.submitter.submit(Submission({"task": TASK, **fields}, request_id=request_id), who)


@pytest.fixture
def client_media(tmp_path: Path) -> Iterator[Desk]:
    settings = Settings(data_dir=tmp_path, max_queued=10)
    stores, sandbox = open_stores(settings.database_url), Sandbox()
    artifacts = open_artifacts(settings.artifacts_url)
    card = find_model(str(write_checkpoint(tmp_path / MODEL)))
    media = ClientMedia(settings, stores.media, stores.jobs, artifacts, sandbox, Guard())
    yield Desk(card, settings, stores, media, Moderation(settings))
    sandbox.close()
    stores.close()


async def test_request_ids_belong_to_an_owner(client_media: Desk) -> None:
    ours = await client_media.submit(US, "one")
    theirs = await client_media.submit(THEM, "one", steps=3)
    assert ours.id != theirs.id
    assert await client_media.submit(US, "one") == ours
    with pytest.raises(RequestConflict):
        await client_media.submit(US, "one", steps=3)
    # Without an id every call is a new job.
    assert len({(await client_media.submit()).id for _ in range(3)}) == 3


@pytest.mark.parametrize(
    "options",
    [
        Options(labels={"project": "x"}),
        Options(priority=3),
        Options(deadline_at=time.time() + 3_600),
        Options(retention_seconds=60.0),
        Options(webhook=JobWebhook("https://example.com/hook")),
    ],
)
async def test_a_request_id_with_other_options_is_another_request(client_media: Desk, options: Options) -> None:
    first = await client_media.submit(US, "one")
    with pytest.raises(RequestConflict):
        await client_media.submitter.submit(Submission({"task": TASK}, options, "one"), US)
    same = Options(origin={"api": "openai"}, traceparent="00-0-0-00")
    assert await client_media.submitter.submit(Submission({"task": TASK}, same, "one"), US) == first
    other = await client_media.submitter.submit(Submission({"task": TASK}, options, "two"), US)
    assert await client_media.submitter.submit(Submission({"task": TASK}, options, "two"), US) == other


async def test_random_seeds_do_not_make_a_replay_another_request(client_media: Desk) -> None:
    first = await client_media.submit(US, "one")
    assert (await client_media.submit(US, "one")).spec["seed"] == first.spec["seed"]


async def test_wrong_types_are_named(client_media: Desk) -> None:
    order = Submission({"task": TASK, "steps": "many", "colour": "red"}, found=[Violation("format", "is not known")])
    with pytest.raises(InvalidRequest) as caught:
        await client_media.submitter.submit(order, US)
    assert [violation.field for violation in caught.value.violations] == ["format", "steps", "colour"]


async def test_unknown_model(client_media: Desk) -> None:
    with pytest.raises(UnknownModel, match=r"^model: 'other' is not served here; served: tiny$"):
        await client_media.submit(model="other")
    elsewhere = replace(US, limits=KeyLimits(models=("other",)))
    with pytest.raises(UnknownModel, match=r"^model: 'tiny' is not served here; served: other$"):
        await client_media.submit(elsewhere)


async def test_a_batch_is_stored_whole_or_not_at_all(client_media: Desk) -> None:
    orders = [Submission({"task": TASK, "steps": steps}) for steps in (1, 0, 2, 1_001)]
    with pytest.raises(InvalidRequest) as caught:
        await client_media.submitter.submit_all(orders, US)
    assert [violation.field for violation in caught.value.violations] == ["requests.1.steps", "requests.3.steps"]
    with pytest.raises(QueueFull):
        await client_media.submitter.submit_all([Submission({"task": TASK})] * 11, US)
    for count in (0, 101):
        with pytest.raises(InvalidRequest, match=f"requests: has {count} entries, give 1 to 100"):
            await client_media.submitter.submit_all([Submission({"task": TASK})] * count, US)
    assert client_media.stores.jobs.list("us", page_size=5) == []
    jobs = await client_media.submitter.submit_all([Submission({"task": TASK, "steps": steps}) for steps in (1, 2)], US)
    assert [job.steps for job in jobs] == [1, 2]


async def test_quotas_of_a_key(client_media: Desk) -> None:
    key, _ = client_media.stores.keys.create("k", "us", KeyLimits(concurrent_jobs=1))
    who = Principal("us", key.id, "k", key.limits)
    first = await client_media.submit(who, "one")
    with pytest.raises(QuotaExceeded) as caught:
        await client_media.submit(who)
    assert (caught.value.quota, caught.value.limit, caught.value.used) == ("concurrent_jobs", 1, 1)
    assert (await client_media.submit(who, "one")).id == first.id
    client_media.stores.jobs.request_cancel(first.id, "us")
    await client_media.submit(who)
    long = replace(who, limits=KeyLimits(queued_seconds=5))
    with pytest.raises(QuotaExceeded, match="queued_seconds"):
        await client_media.submit(long, duration_seconds=4.0)


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
async def test_bad_options(options: Options, field: str, client_media: Desk) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await client_media.submitter.submit(Submission({"task": TASK}, options), US)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert client_media.stores.jobs.list("us", page_size=1) == []


def test_job_ids() -> None:
    ids = {new_id(JOB_ID) for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("vid_[a-z2-7]{24}", job_id) for job_id in ids)


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "size": st.sampled_from(["1080p", "720p", "64x32"]),
    "ratio": st.sampled_from(["16:9", "1:1"]),
    "fit": st.sampled_from(["cover", "contain"]),
    "flow_shift": st.none() | st.floats(1, 9),
    "frames": st.none() | st.integers(1, 9),
    "steps": st.none() | st.integers(1, 9),
    "guidance": st.none() | st.floats(0, 30),
    "seed": st.none() | st.integers(0, 9) | st.integers(2**62, 2**63 - 1),
    "container": st.sampled_from(["mp4", "mkv", "png"]),
    "keep_latents": st.booleans(),
    "task": st.fixed_dictionaries(
        {
            "kind": st.just("text_to_video"),
            "prompt": st.sampled_from(["a", "b"]),
            "negative_prompt": st.sampled_from([None, "", "c"]),
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
    assert (fingerprint(one, WAN, some) == fingerprint(two, WAN, others)) == same
    assert fingerprint(one, WAN, {}) == fingerprint(one.model_copy(update={"model": WAN.name}), WAN, {})
    assert fingerprint(one, WAN, {}) != fingerprint(one, replace(WAN, name="other"), {})


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"size": "720P"}, {"size": "720p"}),
        ({"size": "1280*720"}, {"size": "1280x720"}),
        ({"seed": -1}, {}),
        ({"fit": "cover"}, {}),
        ({"task": {**TASK, "negative_prompt": None}}, {}),
    ],
)
def test_what_means_the_same_has_the_same_fingerprint(one: dict[str, Any], two: dict[str, Any]) -> None:
    prints = {fingerprint(parse_request({"task": TASK, **fields}), WAN, {}) for fields in (one, two)}
    assert len(prints) == 1


def test_an_empty_negative_prompt_counts_where_the_model_has_one() -> None:
    given, left_out = (parse_request({"task": task}) for task in ({**TASK, "negative_prompt": ""}, TASK))
    assert fingerprint(given, WAN, {}) != fingerprint(left_out, WAN, {})
    assert fingerprint(given, NANO, {}) == fingerprint(left_out, NANO, {})


def fused(strength: float, **changes: Any) -> FusedAdapter:
    return replace(FusedAdapter("style", "/a", "ab" * 32, strength, "any"), **changes)


SERVED = {
    "another model under the name": replace(find_model("nano-4step"), name="nano"),
    "another form": find_model("nano", LoadOptions(quantize="fp8")),
    "an adapter": replace(NANO, adapters=(fused(1.0),)),
    "the adapter in another strength": replace(NANO, adapters=(fused(0.5),)),
}


@pytest.mark.parametrize("what", SERVED)
async def test_a_repeated_request_finds_no_job_of_other_weights(what: str, client_media: Desk) -> None:
    """A service that was started with others has not made the clip that is asked for."""
    before = SERVED["an adapter"] if "strength" in what else NANO
    first = await client_media.serving(before).submit(US, "one")
    assert first.weights == weights_of(before)
    with pytest.raises(RequestConflict, match="'one' was used before when nano had other weights"):
        await client_media.serving(SERVED[what]).submit(US, "one")
    assert await client_media.serving(before).submit(US, "one") == first


async def test_where_an_adapter_is_does_not_matter(client_media: Desk) -> None:
    first = await client_media.serving(SERVED["an adapter"]).submit(US, "one")
    elsewhere = replace(NANO, adapters=(fused(1.0, path="/b", name="other"),))
    assert await client_media.serving(elsewhere).submit(US, "one") == first


async def test_a_gateway_without_weights_finds_the_jobs_of_others(client_media: Desk, tmp_path: Path) -> None:
    """Its folder has configurations alone, so that it cannot tell."""
    card = find_model(str(tmp_path / MODEL))
    bare = client_media.serving(card)
    first = await bare.submit(US, "one")
    assert first.weights == ""
    assert await bare.submit(US, "one") == first


@pytest.mark.parametrize(
    ("fields", "stored"),
    [
        ({}, "23c911fffe3c0f0a251899439dba44aa44e01757940891ea4b74da2e6a7fb1e4"),
        ({"size": "480p"}, "23c911fffe3c0f0a251899439dba44aa44e01757940891ea4b74da2e6a7fb1e4"),
        ({"size": "720p", "ratio": "9:16"}, "0850e55835dbf9e9cf7490d6817a36b9ae49283dbfee59ac7cc9b719187f24f3"),
        ({"size": "1280x720"}, "0dfee746d077a4a4acc5f98b38536e2e955045d7b62b686d131aa4f7200b8c48"),
        (
            {"seed": 7, "steps": 4, "guidance": 2.5, "container": "mkv"},
            "370c9f1a12fe8eab17989010dfb39e85ce305a2ca1e9b52129c9d46898606606",
        ),
        (
            {"task": {**TASK, "negative_prompt": "blur"}},
            "a5ccf952e0d7fa6c13dab1b3587d5f7443e27386895c4ad1ef37f0cbc725bee6",
        ),
        (
            {"task": {"kind": "image_to_video", "image": "m0"}, "frames": 9},
            "721a07f0ed9210c6460e5a1e6c2b0d02ff9533ea4e0e45274db9e4cf6ce90936",
        ),
    ],
)
def test_fingerprints_of_earlier_versions_hold(fields: dict[str, Any], stored: str) -> None:
    """A client that repeats a request after an upgrade finds its job; requests once named no more than this."""
    media = {"m0": "x"} if "image" in str(fields) else {}
    assert fingerprint(parse_request({"task": TASK, **fields}), WAN, media) == stored


class Listening(Moderation):
    """Passes all, and keeps what it was shown."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.shown: list[str] = []

    async def check_prompt(self, prompt: str, negative_prompt: str) -> list[dict[str, str]]:
        self.shown.append(negative_prompt)
        return await super().check_prompt(prompt, negative_prompt)


async def test_a_models_own_negative_prompt_is_not_moderated(client_media: Desk) -> None:
    listening = Listening(client_media.settings)
    mine = replace(client_media, card=WAN, moderation=listening)
    assert (await mine.submit()).spec["task"]["negative_prompt"] == "dull"
    await mine.submit(task={**TASK, "negative_prompt": "blur"})
    assert listening.shown == ["", "blur"]

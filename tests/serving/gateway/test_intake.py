"""The one way in, without gRPC."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.presets import find_model
from model.tasks import InvalidRequest, Violation, parse_request
from serving.gateway.intake import Intake, UnknownModel, fingerprint, new_job_id
from serving.jobs.store import JobStore, RequestConflict
from tests.serving.gateway.harness import MODEL, write_checkpoint

TASK = {"kind": "text_to_video", "prompt": "a red circle"}


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[Intake]:
    store = JobStore(tmp_path / "jobs.db")
    yield Intake(store, find_model(str(write_checkpoint(tmp_path / MODEL))), max_queued=10)
    store.close()


def test_request_ids_belong_to_an_owner(intake: Intake) -> None:
    ours = intake.submit({"task": TASK}, owner="us", request_id="one")
    theirs = intake.submit({"task": TASK, "steps": 3}, owner="them", request_id="one")
    assert ours.id != theirs.id
    assert intake.submit({"task": TASK}, owner="us", request_id="one") == ours
    with pytest.raises(RequestConflict):
        intake.submit({"task": TASK, "steps": 3}, owner="us", request_id="one")
    # Without an id every call is a new job.
    assert len({intake.submit({"task": TASK}, owner="us", request_id="").id for _ in range(3)}) == 3


def test_random_seeds_do_not_make_a_replay_another_request(intake: Intake) -> None:
    first = intake.submit({"task": TASK}, owner="", request_id="one")
    assert intake.submit({"task": TASK}, owner="", request_id="one").spec["seed"] == first.spec["seed"]


def test_wrong_types_are_named(intake: Intake) -> None:
    with pytest.raises(InvalidRequest) as caught:
        intake.submit(
            {"task": TASK, "steps": "many", "colour": "red"},
            owner="",
            request_id="",
            found=[Violation("format", "is not known")],
        )
    assert [violation.field for violation in caught.value.violations] == ["format", "steps", "colour"]


def test_unknown_model(intake: Intake) -> None:
    with pytest.raises(UnknownModel, match=r"^model: 'other' is not served here; served: tiny$"):
        intake.submit({"task": TASK, "model": "other"}, owner="", request_id="")


def test_job_ids() -> None:
    ids = {new_job_id() for _ in range(100)}
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


@given(st.fixed_dictionaries({}, optional=FIELDS), st.fixed_dictionaries({}, optional=FIELDS))
def test_fingerprints_tell_requests_apart(first: dict[str, Any], second: dict[str, Any]) -> None:
    one, two = (parse_request({"task": TASK, **fields}) for fields in (first, second))
    assert (fingerprint(one, MODEL) == fingerprint(two, MODEL)) == (one == two)
    assert fingerprint(one, MODEL) == fingerprint(one.model_copy(update={"model": MODEL}), MODEL)
    assert fingerprint(one, MODEL) != fingerprint(one, "other")

"""Every request that Alibaba's pages show is taken, or refused by the field and with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.serving.gateway.http.dashscope.documented import (
    CASES,
    EXTENDED,
    FIRST,
    LAST,
    PROMPT,
    REFERENCES,
    SOURCE,
    START,
    Case,
    named,
    one,
)
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.specs import VideoSpec
from zoetrope.model.request.tasks import ModelCard, media_of
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.gateway.core.core import Core
from zoetrope.serving.gateway.http.app import http_app
from zoetrope.serving.gateway.main import open_core

URL = "/api/v1/services/aigc/{}/video-synthesis"
# With all tasks, and the sizes of a real model.
CARD = replace(
    find_model("nano"),
    name="every-task",
    native_sizes=(),
    size_multiple=16,
    max_frames=15 * 8 + 1,
    max_references=5,
    default_size="720p",
    default_frames=40,
)
# One that can do less, as most can: no clips as references, no last frame.
SMALL = replace(
    CARD,
    name="some-tasks",
    tasks=("text_to_video", "image_to_video", "reference_to_video"),
    max_references=2,
    ends_with_frame=False,
    reference_clips=False,
)


@dataclass(frozen=True)
class Doors:
    """A gateway in this process: what it works on, and a client."""

    core: Core
    client: TestClient

    def post(self, body: dict[str, Any], path: str = "video-generation") -> Any:
        # The second header goes with oss:// addresses; all pages allow it.
        headers = {"X-DashScope-Async": "enable", "X-DashScope-OssResourceResolve": "enable"}
        return self.client.post(URL.format(path), json=named(body), headers=headers)


@contextmanager
def opened(card: ModelCard, directory: Path) -> Iterator[Doors]:
    with (
        open_core(Settings(model=(card.name,), data_dir=directory, max_queued=1_000), ServedModels([card])) as core,
        TestClient(http_app(core), base_url="http://127.0.0.1") as client,
    ):
        yield Doors(core, client)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Doors]]:
    """By the name of the served model."""
    with ExitStack() as stack:
        yield {
            card.name: stack.enter_context(opened(card, tmp_path_factory.mktemp(card.name))) for card in (CARD, SMALL)
        }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}: {case.says}")
def test_a_documented_request_is_taken(case: Case, doors: dict[str, Doors]) -> None:
    door = doors[CARD.name]
    core = door.core
    answer = door.post({"model": case.model, "input": case.input, "parameters": case.parameters}, case.path)
    assert answer.status_code == 200, answer.text
    output, made = answer.json()["output"], case.made
    job = core.stores.jobs.get(output["task_id"], "")
    assert job is not None
    spec, task = job.spec, job.spec["task"]
    assert (task["kind"], task["prompt"], task["negative_prompt"]) == (
        made.kind,
        case.input.get("prompt", ""),
        made.negative_prompt,
    )
    assert f"{spec['width']}x{spec['height']}" == made.size
    assert spec["frames"] / spec["fps"] == made.seconds
    media = media_of(VideoSpec.from_dict(spec).task)
    stored = {name: core.stores.media.get(medium, "") for name, medium in media.items()}
    assert {name: row.info["kind"] for name, row in stored.items() if row is not None and row.info} == made.media
    assert (spec["audio"] is not None) == made.audio
    assert made.more.items() <= task.items()
    if "seed" in case.parameters:
        assert spec["seed"] == case.parameters["seed"]
    assert sorted(job.warnings) == sorted(made.warnings)
    assert output.get("warnings", []) == list(job.warnings)
    shown = door.client.get(f"/api/v1/tasks/{job.id}").json()["output"]
    assert (shown["orig_prompt"], shown.get("warnings", [])) == (task["prompt"], list(job.warnings))


def test_every_task_but_the_storyboard_is_documented() -> None:
    assert {case.made.kind for case in CASES} == set(TASK_KINDS) - {"grid_to_video"}


@pytest.mark.parametrize(
    ("served", "model", "given", "parameters", "code", "says"),
    [
        (
            "every-task",
            "wanx2.1-i2v-turbo",
            {"img_url": "picture", "template": "flying"},
            {"resolution": "720P"},
            "InvalidParameter",
            "input.template: 'flying' is given, but there are no effects here",
        ),
        (
            "every-task",
            "wanx2.1-kf2v-plus",
            {"first_frame_url": "picture", "template": "hanfu-1"},
            {"resolution": "720P", "prompt_extend": True},
            "InvalidParameter",
            "input.template: 'hanfu-1' is given",
        ),
        (
            "every-task",
            "wan2.5-r2v-preview",
            {**PROMPT, "reference_video_urls": ["clip"], "reference_video_description": ["a dancer"]},
            {},
            "InvalidParameter",
            "input.reference_video_description: is given, but descriptions of references are not read",
        ),
        (
            "every-task",
            "wan2.7-videoedit",
            {"media": [SOURCE]},
            {"resolution": "720P"},
            "InvalidParameter",
            "input.prompt: is empty",
        ),
        (
            "every-task",
            "wan2.1-vace-plus",
            {**PROMPT, "function": "image_reference", "ref_images_url": ["picture"], "obj_or_bg": ["obj"]},
            {"prompt_extend": True, "size": "1280*720"},
            "InvalidParameter",
            "input.ref_images_url: is not a known field",
        ),
        ("every-task", "wan2.1-vace-plus", PROMPT, {}, "ModelNotFound", "model: 'wan2.1-vace-plus' is not served here"),
        (
            "every-task",
            "wan3.0-video",
            {**PROMPT, "media": [one("reference_video", "clip")]},
            {"resolution": "720P", "ratio": "adaptive"},
            "ModelNotFound",
            "served: every-task, wan2.7-t2v, wan2.7-i2v, wan2.7-r2v, wan2.7-videoedit",
        ),
        (
            "some-tasks",
            "wan2.7-i2v",
            {**PROMPT, "media": [START, LAST]},
            {"resolution": "720P", "duration": 12},
            "InvalidParameter",
            "input.media.1.url: is given, but some-tasks cannot end with a given frame",
        ),
        (
            "some-tasks",
            "wan2.7-i2v",
            {**PROMPT, "media": [FIRST, LAST]},
            {"resolution": "720P"},
            "InvalidParameter",
            "model: first_last_frame is not served by some-tasks, which serves text_to_video, image_to_video",
        ),
        (
            "some-tasks",
            "wan2.7-r2v",
            {**PROMPT, "media": REFERENCES},
            {"resolution": "720P", "ratio": "16:9", "duration": 10},
            "InvalidParameter",
            "input.media: has 5 entries, at most 2 for some-tasks",
        ),
        (
            "some-tasks",
            "wan2.7-r2v",
            {**PROMPT, "media": REFERENCES[:2]},
            {"resolution": "720P", "ratio": "16:9", "duration": 10},
            "InvalidParameter",
            "input.media.1.url: is a clip of 16 frames, but some-tasks takes only pictures as references",
        ),
        (
            "some-tasks",
            "wan2.7-videoedit",
            {**PROMPT, "media": [SOURCE]},
            EXTENDED,
            "InvalidParameter",
            "model: edit_video is not served by some-tasks",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    served: str,
    model: str,
    given: dict[str, Any],
    parameters: dict[str, Any],
    code: str,
    says: str,
    doors: dict[str, Doors],
) -> None:
    answer = doors[served].post({"model": model, "input": given, "parameters": parameters})
    assert (answer.status_code, answer.json()["code"]) == (404 if code == "ModelNotFound" else 400, code)
    assert says in answer.json()["message"]

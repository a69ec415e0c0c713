"""What a webhook says, by the API that its job came through, in a process that has no web code."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.serving.jobs.harness import LIMITS, claim_oldest, new_job
from zoetrope.serving.gateway.http.compatibility_apis import COMPATIBILITY_APIS
from zoetrope.serving.jobs.job import JobWebhook
from zoetrope.serving.jobs.open import open_stores

ROOT = Path(__file__).resolve().parents[3]
SPEC = {
    "task": {"kind": "text_to_video", "prompt": "a red circle", "negative_prompt": ""},
    **{"container": "mp4", "frames": 5, "fps": 8, "width": 64, "height": 48, "steps": 2, "guidance": 1.0, "seed": 1},
}
RENDER = """
import sys
import zoetrope.serving.sweeper.main
from zoetrope.serving.jobs.open import open_stores
from zoetrope.serving.gateway.http.common.signing import open_signer
from zoetrope.serving.sweeper.webhook_bodies import body_of

stores = open_stores(sys.argv[1])
jobs = stores.jobs.get_many(sys.argv[2:]).values()
for delivery in stores.outbox.due(10, 60.0):
    (job,) = [job for job in jobs if job.id == delivery.job_id]
    print(body_of(delivery, job, "http://here", open_signer(stores.outbox)))
print(sorted({"fastapi", "starlette", "uvicorn", "grpc", "av", "numpy", "PIL"} & set(sys.modules)))
"""


def test_each_api_has_its_own_and_none_needs_web_code(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/jobs.db"
    names = [api.name for api in COMPATIBILITY_APIS]
    assert {"replicate", "openai", "dashscope", "fal"} <= set(names)
    hook = JobWebhook("http://127.0.0.1/", ("start",))
    with closing(open_stores(url)) as stores:
        jobs = [new_job(name, spec=SPEC, webhook=hook, origin={"api": name}) for name in (*names, "grpc")]
        stores.jobs.create_batch(jobs, LIMITS)
        claimed = claim_oldest(stores.jobs, "r", 10, 60.0, 5, ["nano"])
    command = [sys.executable, "-c", RENDER, url, *(job.id for job in claimed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    bodies = {body.get("id") or body.get("request_id") or body["data"]["id"]: body for body in map(json.loads, lines)}
    assert set(bodies) == {*names, "grpc"}
    assert bodies["replicate"]["status"] == "processing"
    assert bodies["replicate"]["urls"]["get"] == "http://here/v1/predictions/replicate"
    assert bodies["fal"]["request_id"] == "fal"
    assert all(bodies[name]["type"] == "video.start" for name in ("openai", "dashscope", "grpc"))

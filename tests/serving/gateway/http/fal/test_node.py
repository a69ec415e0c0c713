"""fal's client for Node, and the provider for fal of Vercel's AI SDK."""

from __future__ import annotations

import base64

from tests.node.run import run_node
from tests.serving.gateway.harness import Service, until
from tests.serving.gateway.http.fal.kit import VIDEO, router, succeed
from tests.serving.gateway.http.samples import picture
from zoetrope.serving.jobs.job import Job, State


def act(service: Service, job: Job) -> None:
    """Make every video but the one that is to be cancelled."""
    if job.spec["seed"] != 99:
        return succeed(service, job)
    until(lambda: service.store.get_many([job.id])[job.id].cancel_requested)
    assert service.store.finish(job.id, job.lease_epoch, State.CANCELLED)


def test_clients_for_node(service: Service) -> None:
    with router(service, act) as seen:
        found = run_node("fal", URL_=service.http, KEY="none", PICTURE=base64.b64encode(picture()).decode())
    first = seen[0]

    # fal's own client.
    assert found["uploaded"].startswith(f"{service.http}/fal/files/med_")
    assert found["uploaded"].endswith("/a%20picture.png")
    assert len(first.media) == 1
    assert (found["result"]["requestId"], found["result"]["data"]["seed"]) == (first.id, 7)
    assert found["bytes"] == found["second"] == found["run"] == len(VIDEO)
    assert found["last"]["status"] == found["streamed"][-1] == "COMPLETED"
    # Some clients follow URLs of the host that they asked alone, so they see those.
    assert found["last"]["response_url"] == f"https://queue.fal.run/fal-ai/wan/requests/{first.id}"
    assert len(set(found["lines"])) == len(found["lines"]) > 1
    assert found["cancelled"]["error_type"] == "client_cancelled"
    cancelled = found["cancelled"]["request_id"]
    assert found["cancelledResult"] == [True, 499, "the request was cancelled", cancelled]
    assert found["refused"][0] is True
    assert "no video is reversed here" in found["refused"][1][0]["msg"]

    # Vercel's.
    assert found["vercel"]["bytes"] == len(VIDEO)
    assert (found["vercel"]["metadata"]["seed"], found["vercel"]["metadata"]["prompt"]) == (3, "a red circle")
    assert "duration: 999.0 must be above 0 and at most 15" in found["vercelRefused"]

"""The requests of other projects' benchmarks, recorded: which fields, in which encoding, in which order.

* vLLM-Omni: `async_request_v1_videos` of benchmarks/diffusion/backends.py in its sources, at commit 5c43c0178f05.
* AIPerf 0.13.0: `aiperf.transports.aiohttp_transport` and `aiperf.endpoints.openai_video_generation`.
  `tests/serving/whole/test_peer_clients.py` runs the real one, where `make aiperf` has installed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class PeerOutcome:
    """What such a client keeps of a request. ``error``: as it would print it; empty if all went well."""

    error: str = ""
    created: dict[str, Any] = field(default_factory=dict)
    polled: dict[str, Any] = field(default_factory=dict)
    content: bytes = b""


@dataclass(frozen=True)
class OmniRequest:
    """A request of vLLM-Omni's benchmark. What is None or 0 is not sent. ``picture``: name, bytes, type."""

    prompt: str
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    seed: int | None = None
    fps: int | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    picture: tuple[str, bytes, str] | None = None

    def fields(self) -> dict[str, str]:
        """The form, in the order of the original: all values as texts."""
        form = dict(self.extra_body)
        form.setdefault("prompt", self.prompt)
        if self.width and self.height:
            form.setdefault("height", self.height)
            form.setdefault("width", self.width)
        for name in ("num_frames", "num_inference_steps"):
            if value := getattr(self, name):
                form.setdefault(name, value)
        if self.seed is not None:
            form.setdefault("seed", self.seed)
        if self.fps:
            form.setdefault("fps", self.fps)
        return {name: str(value) for name, value in form.items()}


def omni_request(
    client: httpx.Client, request: OmniRequest, pause: Callable[[], None] = lambda: time.sleep(2.0)
) -> PeerOutcome:
    """Send it as the benchmark does: create, poll until it has ended, download, and delete in any case.

    A form of texts alone goes url-encoded, as aiohttp sends it, one with a picture as multipart. No API key.
    """
    outcome = PeerOutcome()
    files = {} if request.picture is None else {"input_reference": request.picture}
    created = client.post("/v1/videos", data=request.fields(), files=files or None)
    if created.status_code != 200:
        outcome.error = f"HTTP {created.status_code}: {created.text}"
        return outcome
    outcome.created = created.json()
    name, status = outcome.created.get("id"), outcome.created.get("status")
    if not name or not status:
        outcome.error = "API response missing job 'id' or 'status' field."
        return outcome
    try:
        while status not in ("completed", "failed"):
            pause()
            polled = client.get(f"/v1/videos/{name}")
            if polled.status_code != 200:
                outcome.error = f"Polling failed HTTP {polled.status_code}: {polled.text}"
                return outcome
            outcome.polled = polled.json()
            status = outcome.polled.get("status")
        if status == "failed":
            outcome.error = f"Video job failed: {outcome.polled}"
            return outcome
        content = client.get(f"/v1/videos/{name}/content")
        if content.status_code != 200:
            outcome.error = f"Content retrieval failed HTTP {content.status_code}: {content.text}"
        outcome.content = content.content
        return outcome
    finally:
        client.delete(f"/v1/videos/{name}")


def aiperf_create(client: httpx.Client, model: str, prompt: str, **extra: Any) -> httpx.Response:
    """Create a video as AIPerf does: always multipart, numbers as texts, booleans in lower case."""
    fields = {"prompt": prompt, "model": model, **extra}
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in fields.items()}
    return client.post("/v1/videos", files={name: (None, text) for name, text in texts.items()})

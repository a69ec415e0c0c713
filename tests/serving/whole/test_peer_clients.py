"""Benchmarks of other projects against the whole service with nano: AIPerf itself, and vLLM-Omni's requests."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.serving.gateway.http.samples import picture
from tests.serving.peer_clients import OmniRequest, omni_request
from tests.serving.whole.service import Service
from zoetrope.benchmarks.aiperf import main, program
from zoetrope.serving.media import probe

PROMPT = "a red circle moving right on a white background"


@pytest.mark.timeout(600)
def test_vllm_omnis_requests(service: Service, tmp_path: Path) -> None:
    """The warm-up of its documents, one frame of 854x480, then a clip from words and one from a picture."""
    requests = (
        (OmniRequest(PROMPT, 854, 480, num_frames=1, num_inference_steps=1), (854, 480, 1)),
        (OmniRequest(PROMPT, 64, 48, num_frames=9, num_inference_steps=2, seed=42, fps=8), (64, 48, 9)),
        (OmniRequest(PROMPT, 64, 48, 9, 2, picture=("a.png", picture(100, 100), "image/png")), (64, 48, 9)),
    )
    with httpx.Client(base_url=f"http://{service.addresses.http}", timeout=60) as client:
        assert client.get("/health").status_code == 200
        for number, (request, expected) in enumerate(requests):
            outcome = omni_request(client, request)
            assert outcome.error == ""
            path = tmp_path / f"{number}.mp4"
            path.write_bytes(outcome.content)
            found = probe(path)
            assert (found.width, found.height, found.frames) == expected
            assert outcome.polled["stage_durations"]["denoising"] > 0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(program() is None, reason="AIPerf is not installed: make aiperf")
def test_aiperf(service: Service, tmp_path: Path) -> None:
    """The run of docs/benchmarks.md: 20 requests, four at a time, none of which fails."""
    out = tmp_path / "aiperf"
    assert main(["--url", f"http://{service.addresses.http}", "--out", str(out)]) == 0
    record = json.loads(out.with_suffix(".json").read_text())
    assert (record["requests"], record["errors"], record["error_summary"]) == (20, 0, [])
    assert record["complete"] and record["metrics"]["request_latency"]["avg"] > 0
    assert "20 requests succeeded, 0 failed" in out.with_suffix(".md").read_text()

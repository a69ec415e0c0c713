"""Makes a clip with DashScope's SDK. Usage: dashscope_sdk.py [http://HOST:PORT]"""

from __future__ import annotations

import sys
from urllib.request import urlretrieve

import dashscope
from dashscope import VideoSynthesis


def main(service: str) -> None:
    dashscope.base_http_api_url = f"{service}/api/v1"
    dashscope.api_key = "any, unless the service has keys"
    prompt = "a red circle moving right on a white background"
    done = VideoSynthesis.call(model="wan2.7-t2v", prompt=prompt, duration=2)
    if done.output is None or not done.output.video_url:
        raise SystemExit(f"error: {done.message or done.output}")
    urlretrieve(done.output.video_url, "dashscope-sdk.mp4")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")

"""Makes a clip with OpenAI's SDK. Usage: openai_sdk.py [http://HOST:PORT]"""

from __future__ import annotations

import sys

import openai


def main(service: str) -> None:
    client = openai.OpenAI(base_url=f"{service}/v1", api_key="any, unless the service has keys")
    model = client.models.list().data[0].id
    made = client.videos.create_and_poll(
        prompt="a red circle moving right on a white background",
        model=model,
        seconds="2",  # type: ignore[arg-type]  # the SDK's types know OpenAI's own lengths only
    )
    if made.error is not None:
        raise SystemExit(f"error: {made.error.message}")
    client.videos.download_content(made.id).write_to_file("openai-sdk.mp4")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")

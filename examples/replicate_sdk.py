"""Makes a clip with Replicate's SDK, version 1. Usage: replicate_sdk.py [http://HOST:PORT]"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from replicate.client import Client


def main(service: str) -> None:
    client = Client(base_url=service, api_token="any, unless the service has keys")
    given = {"prompt": "a red circle moving right on a white background", "resolution": "480p", "duration": 2}
    output: Any = client.run("wan-video/wan-2.7-t2v", input=given)
    Path("replicate-sdk.mp4").write_bytes(output.read())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")

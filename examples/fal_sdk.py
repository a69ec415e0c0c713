"""Makes a clip with fal's client. Usage: fal_sdk.py [http://HOST:PORT]"""

from __future__ import annotations

import sys
from urllib.request import urlretrieve

from fal_client import SyncClient, client


def main(service: str) -> None:
    client.QUEUE_URL_FORMAT = f"{service}/"
    client.RUN_URL_FORMAT = f"{service}/fal/run/"
    client.REST_URL = client.CDN_URL = f"{service}/fal/rest"
    fal = SyncClient(key="any, unless the service has keys")
    given = {"prompt": "a red circle moving right on a white background", "resolution": "480p", "duration": "2"}
    result = fal.subscribe("fal-ai/wan/v2.7/text-to-video", given)
    urlretrieve(result["video"]["url"], "fal-sdk.mp4")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")

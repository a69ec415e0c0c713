"""Makes a clip and edits it, with the Python client. Usage: python_client.py [HOST:PORT]"""

from __future__ import annotations

import sys
from pathlib import Path

from zoetrope import VideoClient


def main(server: str) -> None:
    with VideoClient(server) as client:
        name = client.create(prompt="a red circle moving right on a white background", duration_seconds=2, seed=7)
        for status in client.watch(name):
            print(f"{status.state} {status.step}/{status.steps}")
        client.download(name, "python-client.mp4")

        # A local file is uploaded first. A finished job can be named in its place: "video": name.
        edit = {"kind": "edit_video", "prompt": "make it blue", "video": Path("python-client.mp4")}
        name = client.create(task=edit, labels={"example": "edit"}, seed=7)
        done = client.wait(name)
        if done.error is not None:
            raise done.error
        client.download(name, "python-client-edit.mp4")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")

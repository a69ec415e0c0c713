"""Makes a clip with the code generated from the protos and nothing else. Usage: grpc_stubs.py [HOST:PORT]"""

from __future__ import annotations

import sys
from typing import Any
from uuid import uuid4

import grpc

from zoetrope.serving.api.zoetrope.video.v1 import video_pb2, video_pb2_grpc


def main(server: str) -> None:
    with grpc.insecure_channel(server) as channel:
        videos: Any = video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
        task = video_pb2.TextToVideo(prompt="a red circle moving right on a white background")
        # The same request id again, after a lost connection say, returns the same job.
        request = video_pb2.CreateVideoRequest(text_to_video=task, duration_seconds=2, request_id=uuid4().hex)
        operation = videos.CreateVideo(request)
        for event in videos.WatchVideo(video_pb2.WatchVideoRequest(name=operation.name)):
            state = video_pb2.VideoState.Name(event.metadata.state)
            print(f"{state} {event.metadata.step}/{event.metadata.steps}")
            if event.HasField("error"):
                raise SystemExit(f"error: {event.error.message}")
        with open("grpc-stubs.mp4", "wb") as file:
            for chunk in videos.DownloadVideo(video_pb2.DownloadVideoRequest(name=operation.name)):
                file.write(chunk.data)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051")

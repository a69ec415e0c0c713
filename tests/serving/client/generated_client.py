"""A client of somebody else's: nothing but grpcio, the generated code and the protos' own types.

``generated_client.py HOST:PORT PICTURE CLIP`` makes one video of each kind and prints its frames as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from zoetrope.serving.api.zoetrope.video.v1 import media_pb2, media_pb2_grpc, video_pb2, video_pb2_grpc


def main() -> None:
    address, picture, clip = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    channel = grpc.insecure_channel(address)
    videos: Any = video_pb2_grpc.VideoServiceStub(channel)  # type: ignore[no-untyped-call]
    files: Any = media_pb2_grpc.MediaServiceStub(channel)  # type: ignore[no-untyped-call]
    operations: Any = operations_pb2_grpc.OperationsStub(channel)

    def upload(path: Path) -> media_pb2.Media:
        data = path.read_bytes()
        request = media_pb2.CreateMediaRequest(
            size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), filename=path.name
        )
        name = files.CreateMedia(request).name
        half = len(data) // 2
        pieces = [media_pb2.WriteMediaRequest(name=name, data=data[:half])]
        pieces.append(media_pb2.WriteMediaRequest(offset=half, data=data[half:]))
        ready = files.WriteMedia(iter(pieces))
        assert ready.state == media_pb2.MEDIA_STATE_READY
        return media_pb2.Media(name=name)

    image, film = upload(picture), upload(clip)
    inline = media_pb2.Media(data=picture.read_bytes())
    tasks: dict[str, Any] = {
        "text_to_video": video_pb2.TextToVideo(prompt="a red circle"),
        "image_to_video": video_pb2.ImageToVideo(prompt="it moves right", image=image),
        "first_last_frame": video_pb2.FirstLastFrame(first_frame=image, last_frame=inline),
        "grid_to_video": video_pb2.GridToVideo(prompt="it moves right", panels=[image] * 9),
        "reference_to_video": video_pb2.ReferenceToVideo(prompt="Image 1 moves left", references=[image]),
        "edit_video": video_pb2.EditVideo(prompt="make the square blue", video=film),
    }
    common: dict[str, Any] = {"steps": 4, "duration_seconds": 2.0, "labels": {"of": "the test"}}
    requests = [video_pb2.CreateVideoRequest(**{kind: task}, **common) for kind, task in tasks.items()]
    batch = videos.BatchCreateVideos(video_pb2.BatchCreateVideosRequest(requests=requests))
    names = dict(zip(tasks, (operation.name for operation in batch.operations), strict=True))
    frames = {}
    for kind, name in names.items():
        frames[kind] = finish(operations, videos, name)
    again = videos.ExtendVideo(video_pb2.ExtendVideoRequest(name=names["text_to_video"], duration_seconds=2.0))
    frames["extended"] = finish(operations, videos, again.name)
    wanted = operations_pb2.ListOperationsRequest(name="operations", filter='labels.of="the test"')
    listed = operations.ListOperations(wanted)
    assert {operation.name for operation in listed.operations} == set(names.values())
    print(json.dumps(frames))


def finish(operations: Any, videos: Any, name: str) -> int:
    while True:
        operation = operations.WaitOperation(operations_pb2.WaitOperationRequest(name=name), timeout=30)
        if operation.done:
            break
    assert not operation.HasField("error"), f"{name}: {operation.error.message}"
    video = video_pb2.Video()
    operation.response.Unpack(video)
    data = b"".join(chunk.data for chunk in videos.DownloadVideo(video_pb2.DownloadVideoRequest(name=name)))
    assert hashlib.sha256(data).hexdigest() == video.sha256
    return int(video.frames)


if __name__ == "__main__":
    main()

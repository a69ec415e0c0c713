"""Replicate's SDK of version 2 against a service, in a process that has it in front of version 1 on its path.

    python -m tests.serving.gateway.http.replicate.replicate_2 CLIP FOLDER

Makes FOLDER/run.mp4, FOLDER/edit.mp4 from the clip and FOLDER/uploaded.mp4 from the uploaded clip; cancels one more and
prints the state that it ends in.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import replicate

PROMPT = "a red circle moving right on a white background"
PATIENCE_SECONDS = 120.0


def main(clip: Path, folder: Path) -> None:
    sdk: Any = replicate  # typed as version 1
    assert sdk.__version__.startswith("2."), sdk.__version__
    given = {"prompt": PROMPT, "resolution": "1080p", "duration": 5, "num_inference_steps": 50}
    (folder / "run.mp4").write_bytes(sdk.run("wan-video/wan-2.7-t2v", input=given).read())
    uploaded = sdk.files.create(content=clip.read_bytes(), filename=clip.name, type="video/mp4")
    with clip.open("rb") as file:
        for name, source in (("edit", file), ("uploaded", uploaded.urls.get)):
            given = {"video": source, "prompt": "make the square blue", "guidance_scale": 3.0, "num_inference_steps": 4}
            made = sdk.run("wan-video/wan-2.7-videoedit", input={**given, "resolution": "480p"})
            (folder / f"{name}.mp4").write_bytes(made.read())
    given = {"prompt": PROMPT, "num_inference_steps": 900, "duration": 2}
    prediction = sdk.predictions.create(version="wan-video/wan-2.7-t2v", input=given)
    sdk.predictions.cancel(prediction_id=prediction.id)
    end = time.monotonic() + PATIENCE_SECONDS
    while (status := sdk.predictions.get(prediction_id=prediction.id).status) in ("starting", "processing"):
        assert time.monotonic() < end, f"still {status}"
        time.sleep(0.1)
    print(status)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Replicate's SDK of version 2 as coroutines, in a process that has it in front of version 1 on its path.

    python -m tests.serving.gateway.http.replicate.replicate_2_async PICTURE

Prints what came as JSON. The router's part is played elsewhere.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import replicate

T2V, I2V = "wan-video/wan-2.7-t2v", "wan-video/wan-2.7-i2v"
PROMPT = "a red circle"


async def main(picture: Path) -> None:
    sdk: Any = replicate  # typed as version 1
    assert sdk.__version__.startswith("2."), sdk.__version__
    report: dict[str, Any] = {}
    async with sdk.AsyncReplicate() as client:
        ran = await client.run(T2V, input={"prompt": PROMPT})
        report["ran"] = text(await ran.read())
        with picture.open("rb") as file:
            ran = await client.run(I2V, input={"prompt": PROMPT, "image": file})
        report["with_file"] = text(await ran.read())
        uploaded = await client.files.create(content=picture.read_bytes(), filename="a.png", type="image/png")
        report["uploaded"] = (await client.files.get(file_id=uploaded.id)).size
        made = await client.predictions.create(
            version="wan-video/wan-2.2-i2v-fast", input={"prompt": PROMPT, "image": uploaded.urls.get}
        )
        made = await client.predictions.wait(made.id)
        report["output"] = made.output
        report["listed"] = [item.id async for item in await client.predictions.list()]
        held = await client.predictions.create(version=T2V, input={"prompt": "hold"})
        report["canceled"] = (await client.predictions.cancel(prediction_id=held.id)).status
        report["models"] = [model.name async for model in await client.models.list()]
        try:
            await client.run(T2V, input={"prompt": PROMPT, "fps": 999})
        except sdk.APIStatusError as error:
            report["refused"] = [error.status_code, str(error)]
    path = await asyncio.to_thread(lambda: sdk.use(T2V)(prompt=PROMPT))
    report["used"] = [Path(path).suffix, text(Path(path).read_bytes())]
    print(json.dumps(report))


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

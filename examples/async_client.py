"""Makes two clips at once, with the asynchronous client. Usage: async_client.py [HOST:PORT]"""

from __future__ import annotations

import asyncio
import sys

from zoetrope import AsyncVideoClient


async def make(client: AsyncVideoClient, colour: str) -> None:
    name = await client.create(prompt=f"a {colour} circle moving right on a white background", duration_seconds=2)
    done = await client.wait(name)
    if done.error is not None:
        raise done.error
    await client.download(name, f"async-client-{colour}.mp4")
    print(f"{colour}: {done.state}")


async def main(server: str) -> None:
    async with AsyncVideoClient(server) as client:
        await asyncio.gather(make(client, "red"), make(client, "blue"))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"))

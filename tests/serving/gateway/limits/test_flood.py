"""More calls at once than the gateway can answer soon."""

from __future__ import annotations

import asyncio
from collections import Counter

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from tests.serving.gateway.harness import Service

CONNECTIONS, CALLS = 3, 1_500  # of each; gRPC itself would drop some of what waits from 1,000 on, and all from 3,000 on


async def test_no_call_of_a_flood_is_dropped(service: Service) -> None:
    async def flood() -> Counter[str]:
        channel = grpc.aio.insecure_channel(service.target, options=(("grpc.use_local_subchannel_pool", 1),))
        async with channel:
            operations = operations_pb2_grpc.OperationsStub(channel)

            async def call() -> str:
                try:
                    await operations.GetOperation(operations_pb2.GetOperationRequest(name="operations/vid_unknown"))
                except grpc.aio.AioRpcError as error:
                    return str(error.code().name)
                return "OK"

            return Counter(await asyncio.gather(*(call() for _ in range(CALLS))))

    answers = sum(await asyncio.gather(*(flood() for _ in range(CONNECTIONS))), Counter[str]())
    assert answers == {"NOT_FOUND": CONNECTIONS * CALLS}

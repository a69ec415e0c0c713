"""grpc.reflection.v1, which grpcio-reflection lacks: v1alpha by another name, the messages being the same."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

OLD, NEW = "grpc.reflection.v1alpha", "grpc.reflection.v1"
REFLECTION_V1 = f"{NEW}.ServerReflection"


def reflection_v1_handler(servicer: Any) -> Any:
    """Make the handler that lets the servicer of v1alpha answer v1, which from now on can be reflected on itself."""
    _register()
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": method})


def _register() -> None:
    """Add v1's descriptors to the pool that reflection reads. Adding the same ones again changes nothing."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", NEW
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(OLD, NEW)
    (method,) = file.service[0].method
    method.input_type, method.output_type = method.input_type.replace(OLD, NEW), method.output_type.replace(OLD, NEW)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())

"""Random messages for every method of every gRPC service: ``python -m tests.serving.hostile.grpc_fuzz --cases 3000``.

Messages are built from their descriptors: strings of any length, NaN, numbers at the ends of their types, times of any
year; then some are broken on the wire. No call may end with INTERNAL or UNKNOWN, or with no status of the gateway's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import hypothesis
from google.longrunning import operations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor as F
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from tests.serving.gateway.http.samples import picture
from tests.serving.hostile.kit import Broken, Target, finished_job, target
from zoetrope.serving.api.zoetrope.video.v1 import account_pb2, engines_pb2, media_pb2, video_pb2

FILES: Sequence[Any] = (video_pb2, media_pb2, account_pb2, engines_pb2, operations_pb2, health_pb2, reflection_pb2)
SECONDS = 1.0  # for calls that wait for what does not happen
MAX_DEPTH = 4
MAX_ANSWERS = 50  # of a stream that are read
UNCLEAN = ("INTERNAL", "UNKNOWN")
INTEGERS = {
    **dict.fromkeys((F.TYPE_INT32, F.TYPE_SINT32, F.TYPE_SFIXED32, F.TYPE_ENUM), (-(2**31), 2**31 - 1)),
    **dict.fromkeys((F.TYPE_INT64, F.TYPE_SINT64, F.TYPE_SFIXED64), (-(2**63), 2**63 - 1)),
    **dict.fromkeys((F.TYPE_UINT32, F.TYPE_FIXED32), (0, 2**32 - 1)),
    **dict.fromkeys((F.TYPE_UINT64, F.TYPE_FIXED64), (0, 2**64 - 1)),
}
WORDS = (
    *("", "\0", "../../etc/passwd", "nano", "480p", "16:9", "operations/", "media/", "http://127.0.0.1:1/", "data:,"),
    *("data:;base64,!!!", "file:///etc/passwd", "labels", "expire_time", "labels.a=b AND state=queued", "a\r\nb: c"),
    *("é🐈\u202e", "x" * 300, "y" * 70_000, "zoetrope.video.v1.VideoService", "W10=", "'; DROP TABLE job; --"),
)


@dataclass(frozen=True)
class Method:
    """One method: its path, the class of its messages, and which sides stream."""

    path: str
    request: Any
    sends_many: bool
    gets_many: bool


def methods() -> list[Method]:
    found = []
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                request = message_factory.GetMessageClass(method.input_type)
                path = f"/{service.full_name}/{method.name}"
                found.append(Method(path, request, method.client_streaming, method.server_streaming))
    return found


def messages(kind: Any, names: Sequence[str], depth: int = 0) -> st.SearchStrategy[Any]:
    """Messages of a class, each field set or not."""
    fields = [field for field in kind.DESCRIPTOR.fields if depth < MAX_DEPTH or field.message_type is None]
    parts = {field.name: _field(field, names, depth) for field in fields}
    return st.fixed_dictionaries({}, optional=parts).map(lambda values: kind(**_one_of_each(kind, values)))


def _one_of_each(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Of the fields of a oneof, the last; the library would refuse more."""
    kept: dict[Any, str] = {}
    for name in values:
        oneof = kind.DESCRIPTOR.fields_by_name[name].containing_oneof
        kept[oneof.full_name if oneof is not None else name] = name
    return {name: values[name] for name in kept.values()}


def _field(field: Any, names: Sequence[str], depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        parts = field.message_type.fields_by_name
        return st.dictionaries(_one(parts["key"], names, depth), _one(parts["value"], names, depth), max_size=4)
    one = _one(field, names, depth)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _one(field: Any, names: Sequence[str], depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(message_factory.GetMessageClass(field.message_type), names, depth + 1)
    if field.type == F.TYPE_STRING:
        text = st.sampled_from((*names, *WORDS)) | st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
        return st.sampled_from(names) | text if field.name == "name" else text
    if field.type == F.TYPE_BYTES:
        return st.binary(max_size=200) | st.just(picture())
    if field.type == F.TYPE_BOOL:
        return st.booleans()
    if field.type in (F.TYPE_DOUBLE, F.TYPE_FLOAT):
        return st.floats(width=32 if field.type == F.TYPE_FLOAT else 64) | st.sampled_from([1.0, 2.0])
    low, high = INTEGERS[field.type]
    return st.integers(max(low, -2), 20) | st.integers(low, high) | st.sampled_from([low, high])


@st.composite
def wires(draw: st.DrawFn, kind: Any, names: Sequence[str]) -> bytes:
    """A message's bytes: as they should be, broken in places, or any bytes."""
    how = draw(st.sampled_from(["whole", "whole", "whole", "flipped", "cut", "random"]))
    if how == "random":
        return draw(st.binary(max_size=100))
    data = bytearray(draw(messages(kind, names)).SerializeToString())
    if how == "cut" and data:
        del data[draw(st.integers(0, len(data) - 1)) :]
    if how == "flipped" and data:
        for _ in range(draw(st.integers(1, 4))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.sampled_from([0xFF, 0xC0, 0x80, 0x00, 0x7F]))
    return bytes(data)


def call(found: Target, method: Method, sent: Sequence[bytes]) -> str:
    """The status of a call with these messages.

    Raises:
        Broken: an unclean one, or one that tells what it should not.
    """
    channel, kwargs = found.service.channel, {"timeout": SECONDS}
    kind = f"{'stream' if method.sends_many else 'unary'}_{'stream' if method.gets_many else 'unary'}"
    given: Any = iter(sent) if method.sends_many else sent[0]
    what = f"{method.path} {[bytes(part[:200]) for part in sent]}"
    try:
        answer = getattr(channel, kind)(method.path, None, None)(given, **kwargs)
        if method.gets_many:
            for number, _ in enumerate(answer):
                if number >= MAX_ANSWERS:
                    answer.cancel()
                    break
    except grpc.RpcError as error:
        name, text = error.code().name, str(error.details())
        found.check_text(text + repr(error.trailing_metadata()), what)
        if name in UNCLEAN or "metadata size" in text:
            raise Broken(f"{what}: {name}: {text[:300]}") from None
        if name == "UNAVAILABLE":  # of a connection that broke
            raise Broken(f"{what}: {name}: {text[:300]}") from None
        return str(name)
    return "OK"


def run(found: Target, cases: int, seed: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """Statuses by method, and what was found, at most one finding a method."""
    service = found.service
    names = ["operations/vid_unknown", service.client.upload(picture()).name]
    for _ in range(3):
        names.append(finished_job(service, service.client.create(prompt="done")).id)
    names[2:] = [f"operations/{job_id}" for job_id in names[2:]]
    every, broken = methods(), list[str]()
    table: dict[str, Counter[str]] = {method.path: Counter() for method in every}
    for number, method in enumerate(every):
        count = cases * (number + 1) // len(every) - cases * number // len(every)
        many = st.lists(wires(method.request, names), min_size=1, max_size=3 if method.sends_many else 1)
        test = hypothesis.seed(seed)(hypothesis.given(sent=many)(_counted(found, method, table[method.path])))
        try:
            hypothesis.settings(
                max_examples=max(1, count),
                deadline=None,
                database=None,
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            )(test)()
        except Broken as error:
            broken.append(str(error))
        found.check_alive()
    service.empty_queue()
    return table, broken


def _counted(found: Target, method: Method, counts: Counter[str]) -> Callable[[list[bytes]], None]:
    def one(sent: list[bytes]) -> None:
        counts[call(found, method, sent)] += 1

    return one


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, target(Path(directory), max_queued=1_000_000) as found:
        table, broken = run(found, args.cases, args.seed)
        unexpected = found.errors()
    for path, counts in table.items():
        print(f"{path:<75} " + "  ".join(f"{status}: {count}" for status, count in sorted(counts.items())))
    for line in (*broken, *unexpected):
        print("BROKEN", line.rstrip())
    return 1 if broken or unexpected else 0


if __name__ == "__main__":
    sys.exit(main())

"""Stand-ins for `torch.cuda` while a fake device is in use: one Hopper GPU, streams that do nothing, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

from zoetrope.kernels.check.fake_driver import MULTIPROCESSORS
from zoetrope.kernels.check.fake_graph import FakeCapture
from zoetrope.kernels.check.fake_record import DeviceRecord
from zoetrope.kernels.check.fake_tensor import DEVICE, FakeCudaTensor

NAME = "fake Hopper without values"  # not that of a product: no figure under it can be taken for a measurement
MEMORY = 80 << 30  # bytes
PROPERTIES = SimpleNamespace(
    name=NAME,
    major=9,
    minor=0,
    total_memory=MEMORY,
    multi_processor_count=MULTIPROCESSORS,
    warp_size=32,
    regs_per_multiprocessor=65536,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    max_threads_per_multi_processor=2048,
    L2_cache_size=50 << 20,
    gcnArchName="",
    uuid="GPU-00000000-0000-0000-0000-000000000000",
)


class FakeStream:
    """A stream; all are one."""

    record: DeviceRecord
    cuda_stream = 0
    device = torch.device("cuda", 0)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def synchronize(self) -> None:
        self.record.host("wait", "Stream.synchronize")

    def query(self) -> bool:
        return True

    def wait_stream(self, other: object) -> None:
        pass

    def wait_event(self, event: object) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return event or torch.cuda.Event()


class FakeEvent:
    """An event; nothing is timed, so the time between any two is one millisecond."""

    record_of: DeviceRecord

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def record(self, stream: object = None) -> None:
        pass

    def wait(self, stream: object = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.record_of.host("wait", "Event.synchronize")

    def elapsed_time(self, end: object) -> float:
        return 1.0


class FakeGraph:
    """A captured graph; a replay checks that what it would read is still there."""

    record: DeviceRecord
    captured: FakeCapture | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def capture_begin(self, *arguments: Any, **options: Any) -> None:
        self.record.capture = FakeCapture()

    def capture_end(self) -> None:
        self.captured, self.record.capture = self.record.capture, None

    def replay(self) -> None:
        assert self.captured is not None, "nothing was captured"
        self.captured.check()
        self.record.replays += 1
        self.record.operations.append("graph")

    def reset(self) -> None:
        self.captured = None

    def pool(self) -> tuple[int, int]:
        return 0, 0


class FakeGenerator(torch.Generator):
    """A generator of the CPU, whatever the device."""

    def __new__(cls, device: torch.device | str = "cpu") -> FakeGenerator:
        return super().__new__(cls, "cpu")  # type: ignore[call-arg]


@contextmanager
def fake_torch(record: DeviceRecord) -> Iterator[None]:
    """Replace what `torch.cuda` says and does; restore it at the end."""

    @contextmanager
    def graph(captured: Any, *arguments: Any, **options: Any) -> Iterator[None]:
        captured.capture_begin()
        try:
            yield
        finally:
            captured.capture_end()

    @contextmanager
    def guard(device: object = None) -> Iterator[None]:
        record.guards += 1
        try:
            yield
        finally:
            record.guards -= 1

    properties = PROPERTIES
    stream_class = type("Stream", (FakeStream,), {"record": record})
    stream = stream_class()
    replaced: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "_sleep": lambda cycles: None,
        "init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_current_stream_capturing": lambda: record.capture is not None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "device": guard,
        "device_of": guard,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: NAME,
        "get_device_properties": lambda device=None: properties,
        "synchronize": lambda device=None: record.host("wait", "synchronize"),
        "Stream": stream_class,
        "Event": type("Event", (FakeEvent,), {"record_of": record}),
        "CUDAGraph": type("CUDAGraph", (FakeGraph,), {"record": record}),
        "graph": graph,
        "graph_pool_handle": lambda: (0, 0),
        "stream": lambda given=None: nullcontext(),
        "current_stream": lambda device=None: stream,
        "default_stream": lambda device=None: stream,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "memory_allocated": lambda device=None: 0,
        "memory_reserved": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "max_memory_reserved": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
    }
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        torch._C._ensureCUDADeviceGuardSet()  # torch built with CUDA would ask the driver for the device
        future = torch.__future__
        stack.callback(
            future.set_overwrite_module_params_on_conversion, future.get_overwrite_module_params_on_conversion()
        )
        future.set_overwrite_module_params_on_conversion(True)  # module.to("cuda") makes new parameters
        stack.enter_context(mock.patch.object(torch, "Generator", FakeGenerator))
        stack.enter_context(mock.patch.object(torch.backends.cudnn, "version", return_value=None))
        yield


class DeviceNames(TorchFunctionMode):
    """Gives ``cuda`` its number, and makes tensors of values on the host first, where torch would ask the device."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention and isinstance(args[0], FakeCudaTensor):
            args[0].owner.record.operations.append("scaled_dot_product_attention")  # one kernel, whichever it is
            return args[0].new_empty((*args[0].shape[:-1], args[2].shape[-1]))
        if func in (torch.isfinite, torch.Tensor.isfinite) and isinstance(args[0], FakeCudaTensor):
            found = func(*args, **options)
            found.truth = True
            return found
        if func is torch.Tensor.cuda:
            return args[0].to(DEVICE)
        if options.get("device") is not None:
            options["device"] = _numbered(options["device"])
        if func in MADE_OF_VALUES and options.get("device") == DEVICE:
            if func is not torch.Tensor.new_tensor and isinstance(args[0], torch.Tensor):
                return args[0].to(DEVICE, options.get("dtype"))
            return func(*args, **{**options, "device": "cpu"}).to(DEVICE)
        if func is torch.Tensor.new_tensor and args[0].device == DEVICE and options.get("device") is None:
            return torch.tensor(args[1], dtype=options.get("dtype") or args[0].dtype).to(DEVICE)
        if func is torch.Tensor.to:
            args = [args[0], *map(_numbered, args[1:])]
        return func(*args, **options)


MADE_OF_VALUES = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)


def _numbered(device: Any) -> Any:
    """Return ``cuda:0`` for ``cuda``, and everything else as it is."""
    if isinstance(device, str) and device.startswith("cuda"):
        device = torch.device(device)
    if isinstance(device, torch.device) and device.type == "cuda" and device.index is None:
        return DEVICE
    return device

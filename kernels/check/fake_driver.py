"""A driver for Triton that compiles for Hopper, loads nothing and launches nothing."""

from __future__ import annotations

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from zoetrope.kernels.check.fake_record import CompiledKernel, DeviceRecord, RecordedLaunch, caller

TARGET = GPUTarget("cuda", 90, 32)
SHARED = 232448  # bytes of shared memory that a block may have on Hopper
MULTIPROCESSORS = 132
THREADS = 1024  # of a block, at most
DEVICE = "fake cuda"  # the key of the JIT's caches, so that no real device ever finds what was compiled here
PROPERTIES = {
    "max_shared_mem": SHARED,
    "max_num_regs": 65536,
    "multiprocessor_count": MULTIPROCESSORS,
    "warpSize": 32,
    "sm_clock_rate": 0,
    "mem_clock_rate": 0,
    "mem_bus_width": 0,
}


class FakeLauncher:
    """Records what the compiled launcher of a kernel would launch."""

    def __init__(self, source: Any, metadata: Any) -> None:
        pass

    def __call__(self, x: int, y: int, z: int, stream: int, kernel: CompiledKernel, packed: Any, *rest: Any) -> None:
        if min(x, y, z) > 0:
            record: DeviceRecord = driver.active.record
            if record.capture is not None:
                record.capture.launch(rest)
            record.launches.append(RecordedLaunch(kernel.name, (x, y, z), kernel, caller(), record.guards > 0))


class UncompiledKernel:
    """Stands in for a kernel whose launches are counted without compiling it."""

    packed_metadata = ()

    def __init__(self, name: str) -> None:
        self.function = CompiledKernel(name, b"", 0)

    def launch_metadata(self, *arguments: Any) -> None:
        pass

    run = FakeLauncher(None, None)


def skip_compiling(function: Any, key: str, signature: Any, device: str, *arguments: Any) -> UncompiledKernel:
    """Return a kernel in place of `JITFunction._do_compile`, and keep it for the next launch as that does."""
    kernel = UncompiledKernel(function.fn.__name__)
    function.device_caches[device][0][key] = kernel
    return kernel


class FakeUtils:
    """Stands in for the library of Triton that talks to CUDA."""

    def load_binary(
        self, name: str, cubin: bytes, shared: int, device: str
    ) -> tuple[CompiledKernel, CompiledKernel, int, int, int]:
        kernel = CompiledKernel(name, cubin, shared)
        return kernel, kernel, 0, 0, THREADS  # as module and function

    def get_device_properties(self, device: str) -> dict[str, int]:
        return PROPERTIES

    def unload_module(self, module: CompiledKernel) -> None:
        pass


class FakeDriver:
    """The part of Triton's driver that its JIT uses."""

    launcher_cls = FakeLauncher
    utils = FakeUtils()

    def __init__(self, record: DeviceRecord, compiling: bool = True) -> None:
        self.record = record
        self.device = DEVICE if compiling else f"{DEVICE}, not compiling"

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> str:
        return self.device

    def set_current_device(self, device: str) -> None:
        pass

    def get_current_stream(self, device: str = DEVICE) -> int:
        return 0

    def get_device_capability(self, device: str = DEVICE) -> tuple[int, int]:
        return 9, 0

    def get_active_torch_device(self) -> Any:
        return torch.device("cuda", 0)

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind

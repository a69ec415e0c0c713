"""A CUDA device that does not exist, so that real launchers run on a machine without a GPU.

    with fake_cuda() as device:
        grouped_gemm(torch.empty(4096, 3072, dtype=torch.bfloat16, device="cuda"), ...)
    device.launches, device.waits

    python -m zoetrope.kernels.check.fake_cuda MODULE [ARGS...]     run a module with it

In it, tensors can be made on or moved to ``cuda`` (one device, Hopper). Triton's JIT compiles every kernel that is
launched for sm_90a, so what does not compile raises, and finds it in its cache (TRITON_CACHE_DIR) the next time; the
launch is recorded instead of run. Operations of torch give the right shapes. No value is ever computed: the host
reads zeros, and `active` says that no result means anything. Every copy and every wait of the host is recorded. There
are no gradients.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from triton import knobs
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from zoetrope.kernels.check.fake_driver import FakeDriver, skip_compiling
from zoetrope.kernels.check.fake_ops import SPECIAL
from zoetrope.kernels.check.fake_record import IN_USE, CompiledKernel, DeviceRecord, active
from zoetrope.kernels.check.fake_tensor import DeviceMode
from zoetrope.kernels.check.fake_torch import DeviceNames, fake_torch
from zoetrope.kernels.gpu.launch import interpreting

__all__ = ["active", "fake_cuda", "main", "summary"]


@contextmanager
def fake_cuda(compiling: bool = True) -> Iterator[DeviceRecord]:
    """Provide a fake CUDA device to all of the process until the end of the block; yields what it records.

    Args:
        compiling: false to record launches without compiling their kernels, where only their number matters.

    Raises:
        RuntimeError: Triton's interpreter is on, there is a real device, or a fake one is in use already.
    """
    if interpreting():
        raise RuntimeError("TRITON_INTERPRET is 1: a fake CUDA device needs Triton's compiler; unset it")
    if active():
        raise RuntimeError("a fake CUDA device is in use already")
    if torch.cuda.is_available():
        raise RuntimeError("there is a CUDA device: a fake one needs a process without (CUDA_VISIBLE_DEVICES='')")
    record = DeviceRecord()
    before = driver._active
    driver.set_active(FakeDriver(record, compiling))
    knobs.runtime.kernel_load_end_hook.add(_keep_files)
    IN_USE.append(record)
    try:
        skip = nullcontext() if compiling else mock.patch.object(JITFunction, "_do_compile", skip_compiling)
        with skip, fake_torch(record), torch.no_grad(), DeviceNames(), DeviceMode(record, SPECIAL):
            yield record
    finally:
        IN_USE.remove(record)
        knobs.runtime.kernel_load_end_hook.remove(_keep_files)
        driver._active = before


def _keep_files(module: CompiledKernel, function: Any, name: str, group: dict[str, str], hash: str) -> None:
    module.files = {Path(path).suffix[1:]: Path(path) for path in group.values()}


def summary(record: DeviceRecord) -> str:
    """Return how many launches, operations and waits there were, and the most frequent waits."""
    lines = [
        f"fake CUDA: {len(record.launches)} launches of {len(record.kernels)} kernels, "
        f"{len(record.operations)} operations of torch, {len(record.waits)} waits of the host; nothing was computed"
    ]
    common = Counter((event.kind, event.what, event.where) for event in record.waits).most_common(20)
    lines += [f"  {count} x {kind}: {what} at {where}" for (kind, what, where), count in common]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a module as ``python -m`` would, with a fake CUDA device; its exit status is the module's."""
    parser = argparse.ArgumentParser(description="Run a module with a fake CUDA device, on which nothing is computed.")
    parser.add_argument("--skip-compiling", action="store_true", help="record launches without compiling the kernels")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    sys.argv = [given.module, *given.arguments]
    with fake_cuda(compiling=not given.skip_compiling) as record:
        try:
            runpy.run_module(given.module, run_name="__main__", alter_sys=True)
        finally:
            print(summary(record), file=sys.stderr)


if __name__ == "__main__":
    main()

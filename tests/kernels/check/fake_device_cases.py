"""What a fake CUDA device does, and what two blocks launch on one.

python -m tests.kernels.check.fake_device_cases FILE        without Triton's interpreter; writes JSON
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, name-defined"

from __future__ import annotations

import copy
import json
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import nn
from triton.runtime import driver

from tests.kernels.check.model_launches import count_all
from zoetrope.kernels.check.fake_cuda import active, fake_cuda, summary
from zoetrope.kernels.check.fake_record import DeviceRecord

CASES: dict[str, Callable[[], None]] = {}


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES[function.__name__] = function
    return function


@contextmanager
def refused(kind: type[Exception], *words: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(f"nothing raised {kind.__name__}")


def kinds(device: DeviceRecord) -> list[str]:
    """The kinds of the events since the last call."""
    found = [event.kind for event in device.events]
    device.clear()
    return found


@triton.jit
def scaled(source, target, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + at, tl.load(source + at, mask=at < size) * 2, mask=at < size)


@triton.jit
def unable(source):
    tl.store(source, no_such_name)  # noqa: F821


@triton.jit
def greedy(source, length, M: tl.constexpr, K: tl.constexpr):
    """A product whose pipeline takes all the stages it is given, 32 KB each."""
    m, k = tl.arange(0, M), tl.arange(0, K)
    total = tl.zeros((M, M), dtype=tl.float32)
    for start in range(0, length, K):
        tile = tl.load(source + m[:, None] * length + start + k[None, :])
        other = tl.load(source + (start + k)[:, None] * M + m[None, :])
        total = tl.dot(tile, other, total)
    tl.store(source + m[:, None] * M + m[None, :], total.to(tl.bfloat16))


@case
def launches_are_compiled_and_recorded() -> None:
    with fake_cuda() as device:
        x = torch.empty(1000, dtype=torch.bfloat16, device="cuda")
        for _ in range(2):
            scaled[(4,)](x, x, 1000, BLOCK=256)
        scaled[(0,)](x, x, 1000, BLOCK=256)  # no program, no launch
        first, second = device.launches
        assert first.name == "scaled"
        assert first.grid == (4, 1, 1)
        assert "fake_device_cases.py" in first.where
        assert first.kernel is second.kernel
        assert device.kernels == [first.kernel]
        assert first.kernel.cubin[:4] == b"\x7fELF"
        assert ".target sm_90a" in first.kernel.text("ptx")
        assert not first.guarded
        assert kinds(device) == []
        with torch.cuda.device_of(x):
            scaled[(4,)](x, x, 1000, BLOCK=256)
        with torch.cuda.device(x.device):
            scaled[(4,)](x, x, 1000, BLOCK=256)
        assert all(launch.guarded for launch in device.launches)


@case
def alignment_is_that_of_the_address() -> None:
    with fake_cuda() as device:
        x = torch.empty(1001, dtype=torch.bfloat16, device="cuda")
        assert x.data_ptr() % 256 == 0
        assert x[1:].data_ptr() == x.data_ptr() + 2
        assert torch.empty(3, device="cuda").data_ptr() != x.data_ptr()
        scaled[(4,)](x, x, 1000, BLOCK=256)
        scaled[(4,)](x[1:], x, 1000, BLOCK=256)
        assert len(device.kernels) == 2


@case
def what_does_not_compile_raises() -> None:
    with fake_cuda() as device:
        x = torch.empty(256, 256, dtype=torch.bfloat16, device="cuda")
        with refused(triton.CompilationError, "no_such_name"):
            unable[(1,)](x)
        with refused(triton.runtime.errors.OutOfResources, "shared memory"):
            greedy[(1,)](x, 512, M=128, K=64, num_warps=8, num_stages=8)
        assert device.launches == []


@case
def launches_can_be_counted_without_compiling() -> None:
    with fake_cuda(compiling=False) as device:
        unable[(3,)](torch.empty(4, device="cuda"))
        assert [(launch.name, launch.grid) for launch in device.launches] == [("unable", (3, 1, 1))]


@case
def every_read_of_the_host_is_a_wait() -> None:
    with fake_cuda() as device:
        x = torch.zeros(4, 3, device="cuda")
        reads: list[Callable[[], object]] = [
            lambda: x.sum().item(),
            lambda: float(x[0, 0]),
            lambda: bool((x > 0).any()),
            lambda: x.tolist(),
            lambda: x.cpu(),
            lambda: x.to("cpu"),
            lambda: torch.empty(4, 3).copy_(x),
            lambda: x.nonzero(),
            lambda: x[x > 0],
            lambda: x.masked_select(x > 0),
            lambda: torch.equal(x, x),
            lambda: x.int().unique(),
            lambda: torch.bincount(x.int().flatten()),
            lambda: x.int()[0].repeat_interleave(x.int()[0]),
            lambda: torch.cuda.synchronize(),
            lambda: torch.cuda.current_stream().synchronize(),
            lambda: torch.cuda.Event().synchronize(),
        ]
        for number, read in enumerate(reads):
            read()
            assert kinds(device) == ["wait"], number
        assert x.tolist() == [[0.0] * 3] * 4
        assert bool(torch.isfinite(x).all())  # checks of values pass


@case
def copies_to_the_device_are_pageable_or_pinned() -> None:
    with fake_cuda() as device:
        host = torch.zeros(8)
        for copy_to in (
            lambda: host.to("cuda"),
            lambda: host.cuda(),
            lambda: host.to("cuda", non_blocking=True),  # not pinned: the host waits all the same
            lambda: torch.tensor([1, 2], device="cuda"),
            lambda: torch.as_tensor(host, device="cuda"),
            lambda: torch.zeros(8, device="cuda").copy_(host),
            lambda: torch.zeros(8, device="cuda")[torch.tensor([1, 2])],
            lambda: torch.zeros(8, device="cuda").new_tensor([1.0]),
        ):
            copy_to()
            assert kinds(device) == ["pageable"]
        pinned = host.pin_memory()
        assert pinned.is_pinned()
        assert not host.is_pinned()
        pinned.to("cuda", non_blocking=True)
        torch.empty(4, pin_memory=True).to("cuda", non_blocking=True)
        assert kinds(device) == ["pinned", "pinned"]
        pinned.to("cuda")
        assert kinds(device) == ["pageable"]


@case
def work_of_the_device_is_no_event() -> None:
    with fake_cuda() as device, torch.inference_mode():
        layer = nn.Linear(8, 16).to("cuda", torch.bfloat16)
        device.clear()
        x = torch.randn(5, 8, device="cuda", generator=torch.Generator("cuda").manual_seed(1)).bfloat16()
        y = layer(x)
        y[1:3] = 0
        y[0, 1] += 2
        z = torch.cat([y, y * 2.0 + torch.tensor(1.0)])[:, None, :4].transpose(0, 2).contiguous()
        assert (z.shape, z.dtype, z.device) == ((4, 1, 10), torch.bfloat16, torch.device("cuda", 0))
        assert z.is_cuda
        assert z.stride() == (10, 10, 1)
        assert kinds(device) == []
        assert y[None, ..., 2].shape == (1, 5)
        assert x.topk(3).values.shape == (5, 3)
        assert torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None]).shape == (1, 5, 8)
        assert x.add_(1) is x
        assert torch.empty_like(torch.zeros(2, 3), device="cuda").shape == (2, 3)
        assert torch.zeros_like(x, device="cpu").tolist() == [[0.0] * 8] * 5


@case
def operations_that_launch_are_counted() -> None:
    with fake_cuda() as device:
        x = torch.empty(4, 6, device="cuda")
        x.view(6, 4).transpose(0, 1)[None, 1:].detach().split(2)
        torch.empty_like(x).new_empty(3)
        assert device.operations == []
        (x + 1).mul_(2)
        assert device.operations == ["aten.add.Tensor", "aten.mul_.Tensor"]


@case
def tensors_of_host_and_device_do_not_mix() -> None:
    with fake_cuda():
        x = torch.zeros(3, device="cuda")
        with refused(RuntimeError, "same device"):
            x + torch.zeros(3)
        with refused(RuntimeError, "same device"):
            torch.cat([x, torch.zeros(3)])
        assert (x + torch.tensor(2.0)).shape == (3,)


@case
def the_host_computes_as_ever() -> None:
    with fake_cuda():
        x = torch.arange(6.0).view(2, 3)
        assert (x @ x.T).tolist() == [[5.0, 14.0], [14.0, 50.0]]
        assert x[x > 3].tolist() == [4.0, 5.0]


@case
def a_captured_graph_admits_no_wait() -> None:
    with fake_cuda() as device:
        x = torch.zeros(3, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            x.add_(1)
        graph.replay()
        with refused(RuntimeError, "capturing"), torch.cuda.graph(graph):
            x.sum().item()
        with refused(RuntimeError, "capturing"), torch.cuda.graph(graph):
            torch.tensor([1], device="cuda")
        assert not torch.cuda.is_current_stream_capturing()
        assert "graph" in device.operations


@case
def parameters_and_copies_stay_fake() -> None:
    with fake_cuda():
        layer = nn.Linear(2, 2, device="cuda")
        twin = copy.deepcopy(layer)
        assert isinstance(twin.weight, nn.Parameter)
        assert twin.weight.device == torch.device("cuda", 0)
        assert twin.weight.data_ptr() != layer.weight.data_ptr()
        layer.load_state_dict({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)})


@case
def other_threads_can_use_its_tensors() -> None:
    with fake_cuda() as device:
        x, shapes = torch.zeros(3, device="cuda"), []
        thread = threading.Thread(target=lambda: shapes.append((x[None] * 2).sum(0).shape))
        thread.start()
        thread.join()
        assert shapes == [(3,)]
        assert device.events == []


@case
def everything_is_as_before_afterwards() -> None:
    before = (driver._active, torch.cuda.is_available, torch.Generator, torch.cuda.Event, torch.is_grad_enabled())
    assert not active()
    try:
        with fake_cuda() as device:
            assert active()
            assert torch.cuda.is_available()
            assert torch.cuda.get_device_capability() == (9, 0)
            assert "fake" in torch.cuda.get_device_name()
            with refused(RuntimeError, "in use already"), fake_cuda():
                pass
            raise KeyError
    except KeyError:
        pass
    assert (
        driver._active,
        torch.cuda.is_available,
        torch.Generator,
        torch.cuda.Event,
        torch.is_grad_enabled(),
    ) == before
    assert not active()
    assert not torch.cuda.is_available()
    with refused(Exception, "CUDA"):
        torch.zeros(2, device="cuda")
    assert "0 launches" in summary(device)


@case
def a_wait_says_where_it_was_asked_for() -> None:
    with fake_cuda() as device:
        torch.zeros(2, device="cuda").sum().item()
        (event,) = device.waits
        assert event.what == "value of float32[]"
        assert event.where.startswith("fake_device_cases.py:")
        assert "1 x wait: value of float32[]" in summary(device)


def main(out: Path) -> None:
    results: dict[str, str] = {}
    for name, function in CASES.items():
        try:
            function()
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
    out.write_text(json.dumps({"cases": results, "counts": count_all()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Runs the source of the Gluon attention kernel on a model of a Hopper multiprocessor's barriers, copies and products.

The functions under ``@gluon.jit`` are plain Python once the names they use mean something on the CPU; here they mean
torch tensors. Every partition is a thread, of which one runs at a time, and at each operation that synchronises, a
seeded scheduler picks who goes on: a partition, a copy that lands, or a product that is computed. So buffers are
filled late, products read their shared memory late, and a missing wait, a wrong parity or an early release gives a
wrong result, NaN (fresh shared memory is full of it) or a `Deadlock`. Not modelled: layouts, the order of memory
between proxies (fences), registers.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from triton.experimental.gluon._runtime import GluonJITFunction

from zoetrope.kernels.gpu import attention_gluon_kernel as source


class Deadlock(Exception):
    """Nobody can go on."""


class Barrier:
    """An mbarrier: a phase completes when ``count`` arrivals came and no announced byte is missing."""

    def __init__(self) -> None:
        self.count = self.pending = self.bytes = self.phase = 0

    def init(self, count: int) -> None:
        self.count = self.pending = count

    def arrive(self, count: int = 1) -> None:
        assert 0 < count <= self.pending, "more arrivals than a phase has"
        self.pending -= count
        self._check()

    def expect(self, size: int) -> None:
        self.bytes += size
        self.arrive()

    def land(self, size: int) -> None:
        self.bytes -= size
        self._check()

    def passes(self, parity: int) -> bool:
        return (self.phase - 1) & 1 == parity

    def _check(self) -> None:
        if self.pending == 0 and self.bytes == 0:
            self.phase += 1
            self.pending = self.count


class Barriers:
    def __init__(self, count: int) -> None:
        self.of = [Barrier() for _ in range(count)]

    def index(self, i: Any) -> Barrier:
        return self.of[int(i)]


class Shared:
    """A view of shared memory."""

    def __init__(self, data: torch.Tensor) -> None:
        self.data = data
        self.dtype = data.dtype

    def index(self, i: Any) -> Shared:
        return Shared(self.data[int(i)])

    def reshape(self, shape: list[int]) -> Shared:
        return Shared(self.data.view(shape))

    def permute(self, order: tuple[int, ...]) -> Shared:
        return Shared(self.data.permute(order))

    def slice(self, start: int, length: int) -> Shared:
        return Shared(self.data[start : start + length])

    def load(self, layout: Any) -> torch.Tensor:
        return self.data.clone()

    def store(self, value: torch.Tensor) -> None:
        assert value.dtype == self.dtype
        self.data.copy_(value)


class Descriptor:
    """Boxes ``[rows, 1, head_dim]`` of a tensor ``[tokens, heads, head_dim]``, zero outside of it."""

    def __init__(self, tensor: torch.Tensor, rows: int) -> None:
        self.tensor, self.rows, self.dtype, self.layout = tensor, rows, tensor.dtype, None
        self.block_type = SimpleNamespace(nbytes=rows * tensor.shape[2] * tensor.element_size())

    def box(self, row: int, head: int) -> torch.Tensor:
        box = torch.zeros(self.rows, 1, self.tensor.shape[2], dtype=self.dtype)
        inside = self.tensor[row : row + self.rows, head : head + 1]
        box[: inside.shape[0]] = inside
        return box


class Pointer:
    def __init__(self, tensor: torch.Tensor, offset: Any = 0) -> None:
        self.tensor, self.offset = tensor, offset

    def __add__(self, offset: Any) -> Pointer:
        return Pointer(self.tensor, self.offset + offset)


class Product:
    """An asynchronous product, done at some moment before its wait returns."""

    def __init__(self, compute: Callable[[], torch.Tensor]) -> None:
        self.compute = compute
        self.result: torch.Tensor | None = None


class Machine:
    """The scheduler: partitions hand over to it at `pause` and whenever they have to wait."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.copies: list[Callable[[], None]] = []
        self.products: dict[int, list[Product]] = {}
        self.waiting: dict[int, Callable[[], bool]] = {}
        self.turn = threading.Condition()
        self.running: int | None = None
        self.failure: BaseException | None = None
        self.local = threading.local()

    def pause(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Give way; go on when ``ready``."""
        me = getattr(self.local, "me", None)
        if me is None:  # before and after the partitions there is one thread
            assert ready(), "the kernel waits before its partitions run"
            return
        with self.turn:
            self.waiting[me] = ready
            self._next()
            self.turn.wait_for(lambda: self.running == me or self.failure is not None)
            if self.failure is not None:
                raise Deadlock
            del self.waiting[me]

    def _next(self) -> None:
        self.running = None
        while self.running is None and self.waiting:
            able = [me for me, ready in self.waiting.items() if ready()]
            queues = [queue for queue in self.products.values() if queue]
            choices = len(able) + len(self.copies) + len(queues)
            if choices == 0:
                self.failure = Deadlock()
                break
            pick = self.random.randrange(choices)
            if pick < len(able):
                self.running = able[pick]
            elif pick < len(able) + len(self.copies):
                self.copies.pop(pick - len(able))()  # copies land in any order
            else:
                product = queues[pick - len(able) - len(self.copies)].pop(0)  # products of a warpgroup in theirs
                product.result = product.compute()
        self.turn.notify_all()

    def specialise(self, partitions: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
        started = threading.Barrier(len(partitions) + 1)

        def run(me: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
            self.local.me = me
            self.products[me] = []
            with self.turn:
                self.waiting[me] = lambda: True
            started.wait()
            try:
                with self.turn:
                    self.turn.wait_for(lambda: self.running == me or self.failure is not None)
                    self.waiting.pop(me)
                if self.failure is None:
                    function(*args)
                    assert not self.products[me], "a partition ends with a product in flight"
            except BaseException as error:
                self.failure = self.failure or error
            with self.turn:
                self._next()

        threads = [threading.Thread(target=run, args=(i, *partition)) for i, partition in enumerate(partitions)]
        for thread in threads:
            thread.start()
        started.wait()
        with self.turn:
            self._next()
        for thread in threads:
            thread.join()
        if self.failure is not None:
            raise self.failure
        assert not self.copies, "the program ends with a copy in flight"

    # What the kernel's names mean.
    def names(self, program: int) -> dict[str, Any]:
        def copy(desc: Descriptor, at: list[Any], bar: Barrier, into: Shared) -> None:
            row, head = int(at[0]), int(at[1])

            def land() -> None:
                into.data.copy_(desc.box(row, head))
                bar.land(desc.block_type.nbytes)

            self.copies.append(land)
            self.pause()

        def product(
            a: Shared | torch.Tensor, b: Shared, acc: torch.Tensor, use_acc: bool = True, is_async: bool = False
        ) -> Product:
            assert is_async

            def compute() -> torch.Tensor:
                left = a.data if isinstance(a, Shared) else a
                result = left.float() @ b.data.float()
                return result + acc if use_acc else result

            issued = Product(compute)
            self.products[self.local.me].append(issued)
            self.pause()
            return issued

        def wait_products(outstanding: int, deps: tuple[Any, ...]) -> Any:
            queue = self.products[self.local.me]
            self.pause(lambda: len(queue) <= outstanding)
            results = []
            for dep in deps:
                if isinstance(dep, Product):
                    assert dep.result is not None, "the result of a product is read before it is done"
                    dep = dep.result
                results.append(dep)
            return results[0] if len(results) == 1 else tuple(results)

        def arrive(bar: Barrier, count: int = 1) -> None:
            self.pause()
            bar.arrive(count)

        def wait(bar: Barrier, parity: Any) -> None:
            self.pause(lambda: bar.passes(int(parity)))

        def load(pointer: Pointer) -> torch.Tensor:
            return pointer.tensor.view(-1)[int(pointer.offset)]

        def store(pointer: Pointer, value: torch.Tensor, mask: torch.Tensor) -> None:
            mask = mask.expand_as(value)
            pointer.tensor.view(-1)[pointer.offset.expand_as(value)[mask].long()] = value[mask]

        def allocate(dtype: torch.dtype, shape: list[int], layout: Any) -> Any:
            if dtype == torch.int64:
                return Barrier() if shape == [1] else Barriers(shape[0])
            return Shared(torch.full(shape, torch.nan, dtype=dtype))

        nothing = lambda *args, **kwargs: None  # noqa: E731
        gl = SimpleNamespace(
            float32=torch.float32,
            int64=torch.int64,
            program_id=lambda axis: torch.tensor(program),
            allocate_shared_memory=allocate,
            static_range=range,
            load=load,
            store=store,
            arange=lambda start, end, layout: torch.arange(start, end),
            zeros=lambda shape, dtype, layout: torch.zeros(shape, dtype=dtype),
            full=lambda shape, value, dtype, layout: torch.full(shape, value, dtype=dtype),
            zeros_like=torch.zeros_like,
            where=torch.where,
            maximum=torch.maximum,
            max=lambda x, axis: x.amax(axis),
            sum=lambda x, axis: x.sum(axis),
            exp2=torch.exp2,
            log2=torch.log2,
            expand_dims=torch.unsqueeze,
            convert_layout=lambda x, layout, assert_trivial=False: x,
            inline_asm_elementwise=lambda asm, constraints, args, **kwargs: args[0],
            thread_barrier=nothing,
            BlockedLayout=nothing,
            SliceLayout=nothing,
            NVMMADistributedLayout=nothing,
            DotOperandLayout=nothing,
            warp_specialize=lambda partitions, warps, registers: self.specialise(partitions),
        )
        mbarrier = SimpleNamespace(
            MBarrierLayout=nothing,
            init=lambda bar, count: bar.init(count),
            expect=lambda bar, size: bar.expect(size),
            arrive=arrive,
            wait=wait,
        )
        names: dict[str, Any] = dict(vars(source))
        names |= {"gl": gl, "mbarrier": mbarrier, "tma": SimpleNamespace(async_copy_global_to_shared=copy)}
        names |= {"warpgroup_mma": product, "warpgroup_mma_wait": wait_products, "fence_async_shared": nothing}
        for name, value in list(names.items()):
            if isinstance(value, GluonJITFunction):
                names[name] = FunctionType(value.fn.__code__, names)
        return names


def run_program(program: int, seed: int, args: tuple[Any, ...], changes: dict[str, Any] | None = None) -> None:
    """One program of ``attention_kernel``; ``changes`` replace functions of its source."""
    names = Machine(seed).names(program)
    names.update(changes or {})  # in place: it is what the functions see
    names["attention_kernel"](*args)

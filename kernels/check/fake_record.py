"""What a fake CUDA device was asked to do: launches, operations of torch, copies and waits of the host."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoetrope.kernels.check.fake_graph import FakeCapture

HERE = Path(__file__).parent
PACKAGE = str(Path(__file__).parents[2])  # the folder that holds kernels, model and the others
LIBRARIES = ("site-packages", "dist-packages")


def active() -> bool:
    """Tell whether a fake device is in use, so that results are not computed and must not be compared."""
    return bool(IN_USE)


@dataclass(eq=False)
class CompiledKernel:
    """A kernel that the JIT compiled, or found in its cache, and that would have been loaded.

    Attributes:
        shared: bytes of dynamic shared memory of a block.
        files: where Triton keeps what it was compiled from, by kind (``ptx``, ``ttgir``).
    """

    name: str
    cubin: bytes = field(repr=False)
    shared: int
    files: dict[str, Path] = field(default_factory=dict, repr=False)

    def text(self, kind: str) -> str:
        """Return the code of a kind, such as ``ptx``."""
        return self.files[kind].read_text()


@dataclass(frozen=True)
class RecordedLaunch:
    """A Triton kernel that would have run.

    Attributes:
        guarded: inside ``torch.cuda.device`` or ``device_of``: Triton launches on the current device, whatever that of
            the tensors is.
    """

    name: str
    grid: tuple[int, int, int]
    kernel: CompiledKernel
    where: str
    guarded: bool


@dataclass(frozen=True)
class HostEvent:
    """Something between host and device that a step should not do.

    Attributes:
        kind: ``wait`` (the host waits for the device: a synchronisation, or values that the host reads), ``pageable``
            (a copy from memory that is not pinned, during which the host waits as well) or ``pinned`` (an
            asynchronous copy from pinned memory).
        what: the operation. where: file and line of ours that asked for it.
    """

    kind: str
    what: str
    where: str


@dataclass
class DeviceRecord:
    """Everything since the start, or since `clear`.

    Attributes:
        operations: names of the operations of torch that launch at least one kernel.
        capture: what the graph that is being captured reads; None outside a capture. replays: of graphs.
        guards: of the device, that are open.
    """

    launches: list[RecordedLaunch] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)
    events: list[HostEvent] = field(default_factory=list)
    capture: FakeCapture | None = None
    replays: int = 0
    guards: int = 0

    @property
    def waits(self) -> list[HostEvent]:
        """Return the events that hold up the host: all but asynchronous copies."""
        return [event for event in self.events if event.kind != "pinned"]

    def host(self, kind: str, what: str) -> None:
        """Record an event between host and device.

        Raises:
            RuntimeError: a graph is being captured: CUDA refuses waits, and a copy would read the host's memory again
                at every replay.
        """
        self.events.append(HostEvent(kind, what, caller()))
        if self.capture is not None:
            raise RuntimeError(f"{what}: operation not permitted when stream is capturing")

    @property
    def kernels(self) -> list[CompiledKernel]:
        """Return the kernels that were launched, each once."""
        return list(dict.fromkeys(launch.kernel for launch in self.launches))

    def clear(self) -> None:
        """Forget everything so far."""
        self.launches.clear()
        self.operations.clear()
        self.events.clear()


def caller() -> str:
    """Return ``file:line`` of the innermost frame of ours outside this folder, or of the innermost of any script."""
    outer = ""
    for name, line in _frames():
        if name.startswith(PACKAGE) and not any(part in name for part in LIBRARIES):
            return f"{Path(name).relative_to(PACKAGE)}:{line}"
        outer = outer or f"{Path(name).name}:{line}"
    return outer


def _frames() -> Iterator[tuple[str, int]]:
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((str(HERE), "<")) and not any(part in name for part in LIBRARIES):
            yield name, frame.f_lineno
        if frame.f_back is None:
            return
        frame = frame.f_back


IN_USE: list[DeviceRecord] = []  # the record of the fake device, while there is one

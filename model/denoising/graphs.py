"""Run steps of one shape as a CUDA graph, from the third time on: for small steps, whose launches take the host longer
than the device.

What a graph replays are launches with the addresses and the numbers that they had when it was captured. So

* the tensors of a `PackedBatch` are copied into those of the graph before each replay;
* all that the host decides by is the graph's key: lengths of the sequences, shapes, the network;
* tables that the host made, which caches may drop, are held with the graph (`kernels.types.upload`);
* the text's keys and values are computed before, for a network computes them only when a prompt is new.

A step never fails for a graph's sake. What cannot be captured, or no longer be replayed, runs eagerly; an eager step
that finds too little memory gets that of the graphs.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch

from zoetrope.kernels.types.upload import held_tables
from zoetrope.model.denoising.forward import ForwardRun
from zoetrope.model.network.exchange import ALONE
from zoetrope.model.network.protocol import Network, module_of
from zoetrope.model.network.remembered import KeysValues
from zoetrope.model.network.sequences import PackedBatch, Sequence, unpack_targets

log = logging.getLogger("zoetrope.graphs")

INPUTS = ("tokens", "cos", "sin", "timesteps", "noise_row", "hints", "hint_scales")  # read by every pass
READ_ONLY = ("cos", "sin")  # the same tensors hold the same values
LENGTHS = ("cu_tokens", "cu_text", "cu_image")
OTHERS = ("texts", "images", "targets", "exchange", "contexts")
SHAPES = 64  # that are counted
NEVER = -1


class CapturedPass(Protocol):
    """A pass that can be run again: ``replay`` writes its result to ``output``.

    ``size``: bytes of memory that it keeps.
    """

    size: int

    @property
    def output(self) -> torch.Tensor: ...

    def replay(self) -> None: ...

    def release(self) -> None: ...


Capture = Callable[[Callable[[], torch.Tensor], torch.device], CapturedPass]


class CudaGraph:
    """A `CapturedPass` of a CUDA device."""

    def __init__(self, run: Callable[[], torch.Tensor], device: torch.device) -> None:
        """Run it once on a stream of its own, then capture it there.

        The first run makes what is made once, such as cuBLAS's workspace. It also shows that there is memory: what it
        took is free again when the capture begins, which needs as much.
        """
        here, stream = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            run()
        here.wait_stream(stream)
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(device)
        self._device = device
        self._graph = torch.cuda.CUDAGraph()
        # Other threads write snapshots: what they ask of CUDA must not break a capture of this one.
        alone = torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local")
        with held_tables() as self._tables, alone:
            self.output = run()
        self.size = torch.cuda.memory_reserved(device) - before

    def replay(self) -> None:
        self._graph.replay()

    def release(self) -> None:
        """Give its memory back. It must not be replayed again."""
        torch.cuda.synchronize(self._device)
        self._graph.reset()
        self._tables.clear()


@dataclass(frozen=True)
class GraphLimits:
    """What may be captured.

    Attributes:
        tokens: of the largest step. repeats: steps of a shape that run eagerly first.
        most: graphs. memory: bytes that all of them may keep.
    """

    tokens: int
    memory: int
    repeats: int = 2
    most: int = 8

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("memory", 0), ("repeats", 1), ("most", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")


class _Graph:
    """A captured pass with the tensors that it reads."""

    def __init__(self, network: Network, batch: PackedBatch, contexts: tuple[KeysValues, ...], run: Capture) -> None:
        self._network = network
        self._prompts = (*batch.texts, *batch.images)
        self._kept = {name: getattr(batch, name) for name in READ_ONLY}
        self._contexts = tuple(_copy(layer) for layer in contexts)
        own = {name: x.clone() for name in INPUTS if (x := getattr(batch, name)) is not None}
        self._inputs = own
        # Without prompts, so that nothing can depend on them.
        still = replace(batch, **own, texts=(), images=(), contexts=self._contexts)
        self._pass = run(lambda: network(still), batch.tokens.device)
        self.size = self._pass.size + sum(x.nbytes for x in (*own.values(), *_parts(self._contexts)))

    def run(self, batch: PackedBatch) -> torch.Tensor:
        """Return the network's output for a batch of the same key, in float32; the next run does not change it."""
        for name, own in self._inputs.items():
            new = getattr(batch, name)
            if new is not self._kept.get(name):
                own.copy_(new)
        prompts = (*batch.texts, *batch.images)
        if not all(new is old for new, old in zip(prompts, self._prompts, strict=True)):
            found = self._network.contexts(batch)
            assert found is not None
            for own, new in zip(_parts(self._contexts), _parts(found), strict=True):
                own.copy_(new)
        self._kept, self._prompts = {name: getattr(batch, name) for name in READ_ONLY}, prompts
        self._pass.replay()
        return self._pass.output.to(torch.float32, copy=True)

    def release(self) -> None:
        self._pass.release()


def _copy(layer: KeysValues) -> KeysValues:
    image_k, image_v = (None if x is None else x.clone() for x in (layer.image_k, layer.image_v))
    return KeysValues(layer.k.clone(), layer.v.clone(), image_k, image_v)


def _parts(contexts: tuple[KeysValues, ...]) -> list[torch.Tensor]:
    return [x for layer in contexts for x in layer if x is not None]


def _stays(network: Network, device: torch.device) -> bool:
    """Tell whether all weights are on the device: those that are streamed to it lie elsewhere at the next step."""
    module = module_of(network)
    return all(x.device == device for tensors in (module.parameters(), module.buffers()) for x in tensors)


class GraphRunner:
    """A `model.denoising.forward.Runner` of one process that captures what repeats."""

    def __init__(self, limits: GraphLimits, capture: Capture = CudaGraph) -> None:
        self.limits = limits
        self.replays = 0
        self._capture = capture
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()  # the latest last
        self._seen: OrderedDict[Hashable, int] = OrderedDict()  # steps of a shape, or NEVER
        self._off = False

    @property
    def graphs(self) -> int:
        """Return how many are kept."""
        return len(self._graphs)

    @property
    def size(self) -> int:
        """Return the bytes that they keep."""
        return sum(graph.size for graph in self._graphs.values())

    def __call__(self, network: Network, sequences: list[Sequence]) -> ForwardRun:
        """Run all sequences in one packed batch, as `model.denoising.forward.run_alone`."""
        batch = network.pack(sequences)
        key = None if self._off else self._key(network, batch)
        output = None if key is None else self._replayed(key, batch)
        if output is None:
            output = self._eager(network, batch)
            if key is not None:
                self._count(key, network, batch)
        return ForwardRun(unpack_targets(output, batch, network.config.patch_size), batch.cu_tokens.total)

    def clear(self) -> None:
        """Drop all graphs, and give their memory back."""
        while self._graphs:
            self._graphs.popitem()[1].release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _key(self, network: Network, batch: PackedBatch) -> Hashable | None:
        """Return all that launches depend on beside the values in tensors; None for what is never captured."""
        known = {*INPUTS, *LENGTHS, *OTHERS}
        usual = all(getattr(batch, f.name) is f.default for f in fields(batch) if f.name not in known)
        if type(batch) is not PackedBatch or batch.exchange is not ALONE or not usual:
            return None
        if batch.cu_tokens.total > self.limits.tokens or not torch.is_inference_mode_enabled():
            return None
        given = [getattr(batch, name) for name in INPUTS]
        shapes = tuple(None if x is None else (tuple(x.shape), x.stride(), x.dtype) for x in given)
        lengths = tuple(None if cu is None else cu.lengths for cu in (getattr(batch, name) for name in LENGTHS))
        return id(network), shapes, lengths

    def _eager(self, network: Network, batch: PackedBatch) -> torch.Tensor:
        try:
            return network(batch).float()
        except torch.cuda.OutOfMemoryError:
            if not self._graphs:
                raise
        log.warning("a step of %d tokens lacked memory: it gets that of the graphs", batch.cu_tokens.total)
        self.clear()
        return network(batch).float()

    def _replayed(self, key: Hashable, batch: PackedBatch) -> torch.Tensor | None:
        """Return the output of the key's graph; None if there is none, or it failed."""
        graph = self._graphs.get(key)
        if graph is None:
            return None
        try:
            output = graph.run(batch)
        except torch.cuda.OutOfMemoryError:
            self.clear()
            return None
        except Exception as error:
            self._stop("a graph could not be replayed", error)
            return None
        self._graphs.move_to_end(key)
        self.replays += 1
        return output

    def _count(self, key: Hashable, network: Network, batch: PackedBatch) -> None:
        """Count a step that ran eagerly; capture the pass for those to come once it has repeated."""
        seen = self._seen.pop(key, 0)
        self._seen[key] = seen if seen == NEVER else seen + 1
        while len(self._seen) > SHAPES:
            self._seen.popitem(last=False)
        if self._seen[key] >= self.limits.repeats:
            self._seen[key] = NEVER if not self._captured(key, network, batch) else 0

    def _captured(self, key: Hashable, network: Network, batch: PackedBatch) -> bool:
        """Capture a pass, and keep it if it fits."""
        try:
            contexts = network.contexts(batch)
            if contexts is None or not _stays(network, batch.tokens.device):
                return False
            while len(self._graphs) >= self.limits.most:
                self._drop()
            graph = _Graph(network, batch, contexts, self._capture)
        except torch.cuda.OutOfMemoryError:
            log.info("no memory for a graph of %d tokens", batch.cu_tokens.total)
            self.clear()
            return False
        except Exception as error:
            self._stop("a pass could not be captured", error)
            return False
        self._graphs[key] = graph
        while self._graphs and self.size > self.limits.memory:
            self._drop()
        kept = key in self._graphs
        what = "captured" if kept else "too large for a graph:"
        log.info("%s a pass of %d tokens, %d bytes", what, batch.cu_tokens.total, graph.size)
        return kept

    def _drop(self) -> None:
        """Drop the graph that was not used for longest."""
        self._graphs.popitem(last=False)[1].release()

    def _stop(self, what: str, error: Exception) -> None:
        """Capture nothing any more: after an error nothing is known of the device's state."""
        self._off = True
        log.warning("%s, all steps run eagerly from now on: %s", what, error)
        try:
            self.clear()
        except RuntimeError as other:  # the device is lost, which the step itself will find
            self._graphs.clear()
            log.warning("graphs could not be released: %s", other)

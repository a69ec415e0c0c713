"""Runs blocks through torch.compile where that is faster, chosen for each step by its tokens.

Compiled code fuses the passes between matrix products; each call first checks its guards. That pays for many tokens and
costs for few, and where the line lies depends on the device: an engine measures both when it starts. In service nothing
is compiled, which would look like a hang: a step that fits no compiled code runs eagerly.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._dynamo import config as dynamo_config
from torch._inductor import config as inductor_config
from torch.compiler import set_stance
from torch.fx.experimental import _config as shape_config

from zoetrope.cluster.protocol.messages import one_line
from zoetrope.kernels.select.no_compile import exclude_all
from zoetrope.model.denoising.conditions import blank_conditions
from zoetrope.model.denoising.forward import ForwardRun, Runner
from zoetrope.model.network.protocol import Network
from zoetrope.model.network.sequences import Sequence as Tokens
from zoetrope.model.network.sequences import count_tokens
from zoetrope.model.request.sizes import SIZES
from zoetrope.model.request.tasks import ModelCard

log = logging.getLogger("zoetrope.compiled")

# A name that torch.compile knows, or a function of its graph and example inputs.
Backend = str | Callable[..., Any]
# Returns for each value the largest of all ranks; every rank calls it at the same time, with equally many.
Agree = Callable[[Sequence[int]], list[int]]

LADDER = (64, 256, 1_024, 4_096, 16_384, 65_536)  # tokens of the steps that are measured
STEP_SECONDS = 0.5  # after a step that takes longer, the ladder ends
REPEATS = 3
# Tokens, sequences and noise levels of the steps to compile for: one level has code of its own, several share it.
MIXES = ((200, 2, 1), (540, 3, 2))
VARIANTS = 32  # of one piece of code: first and other blocks, dense and routed, one level and several
EAGER, COMPILED = "force_eager", "eager_on_recompile"  # torch's names


@dataclass(frozen=True)
class Rung:
    """The duration of a step of ``tokens``, in seconds."""

    tokens: int
    eager: float
    compiled: float

    @property
    def gain(self) -> float:
        """Return how many times as fast the compiled step is."""
        return self.eager / self.compiled

    def __str__(self) -> str:
        return f"{self.tokens} tokens: {self.eager:.4g} s eager, {self.compiled:.4g} s compiled, {self.gain:.2f}x"


@dataclass(frozen=True)
class Gains:
    """The measurements, ``rungs`` by tokens. Without any, all steps run eagerly.

    ``compiling``: seconds spent compiling, including the first runs of the compiled code.
    """

    rungs: tuple[Rung, ...] = ()
    compiling: float = 0.0

    def pays(self, tokens: int) -> bool:
        """Return whether to run a step compiled: what is faster on the rung nearest by the ratio of tokens."""
        if not self.rungs:
            return False
        nearest = min(self.rungs, key=lambda rung: abs(math.log(rung.tokens / max(tokens, 1))))
        return nearest.compiled < nearest.eager


class Chooser:
    """A `model.denoising.forward.Runner` that passes each step to another one, compiled or eagerly."""

    def __init__(self, runner: Runner) -> None:
        """Run all steps eagerly until ``gains`` is set."""
        self.gains = Gains()
        self._runner = runner

    def __call__(self, network: Network, sequences: list[Tokens]) -> ForwardRun:
        with set_stance(COMPILED if self.gains.pays(_count(network, sequences)) else EAGER):
            return self._runner(network, sequences)


def longest_clip(card: ModelCard) -> int:
    """Return the tokens of a model's longest segment at its largest size."""
    sizes = card.native_sizes or [size for ratios in SIZES.values() for size in ratios.values()]
    unit, frames = card.size_multiple, card.segment_frames or card.max_frames
    return (1 + (frames - 1) // card.temporal) * max(math.ceil(w / unit) * math.ceil(h / unit) for w, h in sizes)


@torch.inference_mode()
def measure(
    networks: Sequence[Network],
    runner: Runner,
    longest: int,
    words: int,
    *,
    agree: Agree = list,
    backend: Backend = "inductor",
    ladder: Sequence[int] = LADDER,
    step_seconds: float = STEP_SECONDS,
) -> Gains:
    """Compile the blocks of networks and time steps with and without.

    In a gang every rank calls this at the same time, with its share of equal networks; all get the same result. If a
    rank cannot compile (it may lack a C++ compiler), a warning says so and all steps stay eager. Code that fails to
    compile later stays eager on its own, so that no rank leaves the others waiting in the middle of a step.

    Args:
        networks: alike in all but their weights; the first is timed, all are warmed up.
        runner: runs sequences through a network; the one inside a `Chooser`.
        longest: the most tokens of a sequence. words: text tokens of each.
        ladder: tokens of the steps to time, in ascending order. It ends early after a step of more than
            ``step_seconds``, or if the next would not fit into the GPU's memory.

    Raises:
        ValueError: there is no network, or a count is below 1.
    """
    if not networks:
        raise ValueError("networks is empty: give at least one")
    for name, counts in (("longest", (longest,)), ("words", (words,)), ("ladder", tuple(ladder))):
        if min(counts, default=0) < 1:
            raise ValueError(f"{name} is {', '.join(map(str, counts)) or 'empty'}: it must be at least 1")
    exclude_all()
    device = networks[0].device
    started = time.perf_counter()
    # With more, Inductor starts worker processes, which would outlive a rank that is killed.
    with inductor_config.patch(compile_threads=1), set_stance("default"):
        problem = _problem(backend, device)
        if problem is not None:
            log.warning("steps stay eager, blocks cannot be compiled here: %s", problem)
        if any(agree([int(problem is not None)])):
            if problem is None:
                log.warning("steps stay eager: another rank cannot compile")
            return Gains()
        # Values that happen to be equal now, such as a number of tokens and a memory offset, need not be so later.
        unequal = shape_config.patch(use_duck_shape=False)  # type: ignore[attr-defined]  # as other configs have it
        with unequal, dynamo_config.patch(suppress_errors=True, recompile_limit=VARIANTS):
            for network in networks:
                for block in network.layers():
                    block.compile(dynamic=True, backend=backend)
                for number, (tokens, count, levels) in enumerate(MIXES):
                    runner(network, _batch(network, tokens, count, levels, words + number))
            compiling = time.perf_counter() - started
            log.info("compiled in %.1f s", compiling)
            rungs: list[Rung] = []
            for tokens in ladder:
                count = max(2, math.ceil(tokens / longest))  # at least the two branches of a guided clip
                rung, full = _rung(networks, runner, _batch(networks[0], tokens, count, 2, words), agree)
                rungs.append(rung)
                log.info("%s", rung)
                if full or max(rung.eager, rung.compiled) > step_seconds:
                    break
    return Gains(tuple(rungs), compiling)


def _rung(networks: Sequence[Network], runner: Runner, batch: list[Tokens], agree: Agree) -> tuple[Rung, bool]:
    """Time a step both ways alternately, the best of each; and tell whether the next rung would not fit in memory."""
    network = networks[0]
    device = network.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for other in networks:
        runner(other, batch)  # large tensors may need code of their own, of wider indices
    seconds = {EAGER: math.inf, COMPILED: math.inf}
    for turn in range(REPEATS + 1):
        for stance in (EAGER, COMPILED):
            with set_stance(stance):
                started = _now(device)
                runner(network, batch)
                taken = _now(device) - started
            if turn:  # the first one warms up
                seconds[stance] = min(seconds[stance], taken)
    found = [max(1, round(1e6 * value)) for value in seconds.values()]
    eager, compiled, full = agree([*found, int(_is_full(device))])
    return Rung(_count(network, batch), eager / 1e6, compiled / 1e6), bool(full)


def _batch(network: Network, tokens: int, count: int, levels: int, words: int) -> list[Tokens]:
    """Make ``count`` random sequences of about ``tokens`` in total, each with frames of ``levels`` noise levels if it
    has that many frames. Equal on every rank."""
    config, device = network.config, network.device
    generator = torch.Generator().manual_seed(tokens)
    each = max(1, tokens // count)
    side = max(1, int(each ** (1 / 3)))
    grid = (each // side**2, side, side)
    t, h, w = (length * patch for length, patch in zip(grid, config.patch_size, strict=True))
    shape = (config.out_channels, t, h, w)
    times = 1000 * (1 + torch.arange(t, device=device) % levels) / (1 + levels)
    made = []
    for _ in range(count):
        text = torch.randn(words, config.text_dim, generator=generator).to(device)
        latents = torch.randn(shape, generator=generator).to(device)
        made.append(blank_conditions(config, shape, text).sequence(latents, times, text))
    return made


def _problem(backend: Backend, device: torch.device) -> str | None:
    """Return why nothing can be compiled, or None."""
    try:
        torch.compile(_probe, dynamic=True, backend=backend)(torch.ones(5, 3, device=device))
    except Exception as error:  # whatever the compiler lacks
        return one_line(error)
    return None


def _probe(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(x) + 1


def _count(network: Network, sequences: list[Tokens]) -> int:
    return sum(count_tokens(sequence, network.config.patch_size) for sequence in sequences)


def _now(device: torch.device) -> float:
    """Return the time in seconds once the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _is_full(device: torch.device) -> bool:
    """Return whether a step of four times the tokens, with a margin, might not fit into the free memory."""
    if device.type != "cuda":
        return False
    there = torch.cuda.memory_allocated(device)
    taken = torch.cuda.max_memory_allocated(device) - there
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - there
    return 5 * taken > free
